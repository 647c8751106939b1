//! Builds the table of a configuration through parse, compile and publish, and decides many times: the program that
//! `decision.sh` runs under callgrind. `decision SHAPE COUNT DECISIONS`.

use std::{
    hint::black_box,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use bench::{Request, Shape, connection, table};
use http::{HeaderMap, HeaderName};
use ingress::route::Table;
use proxy::{
    ConnMeta,
    message::{Fields, Head, Scheme},
    route::{Action, Dice, Router as _},
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone there is nobody to tell.
            let _unwritable = writeln!(io::stderr(), "decision: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: decision SHAPE COUNT DECISIONS");
    let shape: Shape = next()?.parse().map_err(anyhow::Error::msg)?;
    let count: usize = next()?.parse().context("COUNT is a number")?;
    let decisions: usize = next()?.parse().context("DECISIONS is a number")?;
    ensure!(count > 0, "COUNT is at least 1");

    let table = table(shape, count)?;
    let conn = connection(&table)?;
    let requests: Vec<_> = (0..decisions).map(|turn| shape.request(turn, count)).collect();
    let fields = requests.iter().map(fields).collect::<anyhow::Result<Vec<_>>>()?;
    let heads: Vec<_> =
        requests.iter().zip(&fields).map(|(request, fields)| head(request, fields, &conn)).collect();
    let expected = requests.iter().filter(|request| request.taken).count();
    // A pattern makes its cache when it is used first.
    for head in &heads {
        black_box(table.request(head, Dice::new(42)));
    }
    let forwarded = decide_all(&table, &heads);
    ensure!(forwarded == expected, "{forwarded} requests found a Mapping, not {expected} of {decisions}");
    Ok(())
}

/// The measured part, and nothing else: callgrind collects from its entry to its exit.
#[inline(never)]
fn decide_all(table: &Table, heads: &[Head<'_>]) -> usize {
    let mut forwarded = 0;
    for head in heads {
        let decision = table.request(black_box(head), Dice::new(42));
        forwarded += usize::from(matches!(black_box(&decision).action, Action::Forward(_)));
    }
    forwarded
}

fn fields(request: &Request) -> anyhow::Result<HeaderMap> {
    let field = request
        .header
        .iter()
        .map(|(name, value)| anyhow::Ok((HeaderName::from_static(name), value.parse()?)));
    field.collect()
}

fn head<'a>(request: &'a Request, fields: &'a HeaderMap, conn: &'a ConnMeta) -> Head<'a> {
    Head {
        method: "GET",
        scheme: Scheme::Http,
        authority: &request.authority,
        path: &request.path,
        query: request.query.as_deref(),
        fields: Fields::Typed(fields),
        conn,
    }
}
