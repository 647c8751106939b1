//! The ingress program: reads its settings and runs a command.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use ingress::{
    app::{self, App, Termination},
    cli::{self, Cli, Command, DecisionSettings, IngressSettings, LogForm, Output, RunArgs, UsageError},
    command,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    identity::provider::install();
    let ended = run(Cli::parse());
    app::flush_log();
    match ended {
        Ok(status) => ExitCode::from(status),
        // Whoever read the output has read enough of it: `explain ... | head -1`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere is left to say that even stderr is gone.
            let _unwritable = writeln!(io::stderr(), "selvedge-ingress: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 3 })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let env = |name: &str| std::env::var(name).ok();
    let mut out = io::stdout();
    let control = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let status = match cli.command {
        Command::Run(args) => serve(&args, &env)?,
        Command::Check(args) => {
            let paths = cli::manifests(&args.paths, &env, "name files or folders after `check`")?;
            command::check::run(&args, &paths, &DecisionSettings::new(&args.decision, &env)?, &mut out)?
        }
        Command::Explain(args) => {
            let paths = cli::manifests(&args.manifests, &env, "write --manifests DIR|FILE")?;
            command::explain::run(&args, &paths, &DecisionSettings::new(&args.decision, &env)?, &mut out)?
        }
        #[cfg(feature = "demo")]
        Command::Demo(args) => {
            app::init_logging("warn", Some(false)).map_err(UsageError)?;
            control()?.block_on(command::demo::run(&args, &mut out))?
        }
        Command::Identity(args) => {
            let socket = args.spiffe_socket.or_else(|| env("SPIFFE_ENDPOINT_SOCKET"));
            control()?.block_on(command::identity::run(socket, args.timeout.0, args.output, &mut out))?
        }
        Command::DevAuthority(args) => {
            app::init_logging("info", None).map_err(UsageError)?;
            control()?.block_on(command::dev_authority::run(&args, &mut out))?
        }
        Command::Version(args) => {
            let version = env!("CARGO_PKG_VERSION");
            match args.output {
                Output::Text => writeln!(out, "selvedge-ingress {version}")?,
                Output::Json => {
                    writeln!(
                        out,
                        "{:#}",
                        serde_json::json!({"name": "selvedge-ingress", "version": version})
                    )?;
                }
            }
            0
        }
    };
    Ok(status)
}

/// `run`: the data plane has its own threads; this one is control.
fn serve(args: &RunArgs, env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<u8> {
    let settings = IngressSettings::new(args, env)?;
    let form = args.common.log_format.map(|form| form == LogForm::Json);
    app::init_logging(&args.common.log_level, form).map_err(UsageError)?;
    let control =
        tokio::runtime::Builder::new_current_thread().enable_all().thread_name("control").build()?;
    control.block_on(async {
        let termination = Termination::new()?;
        match App::start(settings).await {
            Ok(app) => Ok(app.run(termination).await),
            Err(failure) => {
                writeln!(io::stderr(), "selvedge-ingress: {failure}")?;
                Ok(failure.status)
            }
        }
    })
}
