//! Writes manifests with many Mappings to stdout: `make-mappings SHAPE COUNT`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use bench::Shape;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let shape = args.next().and_then(|name| name.parse::<Shape>().ok());
    let count = args.next().and_then(|count| count.parse::<usize>().ok());
    let (Some(shape), Some(count)) = (shape, count) else {
        let names = Shape::ALL.map(Shape::name).join("|");
        // With stderr gone there is nobody to tell.
        let _unwritable = writeln!(io::stderr(), "usage: make-mappings {names} COUNT");
        return ExitCode::from(2);
    };
    match io::stdout().write_all(shape.manifests(count).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}
