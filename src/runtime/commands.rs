//! One function per command, and the exit codes that they share.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::FromArgMatches;

use super::{
    agent,
    args::{
        self, AgentArgs, AuthorityCommand, Cli, Command, InspectArgs, IssuanceCommand, PolicyCommand, QuickstartArgs,
        RecoverArgs, RenderCommand, RenderGatewayArgs, ServeArgs, TokenArgs,
    },
    config::{AgentConfig, ConfigError, Environment, ServeConfig},
    operate, quickstart,
    seams::SystemClock,
    serve,
    telemetry::{self, TelemetryError},
};
use crate::{
    cli::{gateway, inspect, render::Palette},
    domain::clock::Clock,
    service::ports::AuthorityKind,
};

/// The command could not do its work.
pub const EXIT_ERROR: u8 = 1;
/// `inspect` found something that has expired, does not verify, or breaks a rule.
pub const EXIT_UNSOUND: u8 = 2;
/// The command line or the configuration can't be used (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// Why a command ended without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Bad flags, environment or file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A log filter that can't be used.
    #[error(transparent)]
    Logs(#[from] TelemetryError),
    /// Everything else, in words.
    #[error("{0}")]
    Failed(String),
}

/// Reads the command line, does what it says, and says on stderr why if that failed.
pub fn run() -> ExitCode {
    let cli = args::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            let _closed_pipe = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli.command, &environment()) {
        Ok(code) => code,
        Err(error) => {
            let _closed_pipe = writeln!(io::stderr(), "error: {error}");
            match error {
                CommandError::Config(_) | CommandError::Logs(_) => EXIT_USAGE.into(),
                CommandError::Failed(_) => EXIT_ERROR.into(),
            }
        }
    }
}

fn dispatch(command: Command, environment: &Environment) -> Result<ExitCode, CommandError> {
    match command {
        Command::Serve(flags) => serve(&flags, environment),
        Command::Agent(flags) => agent(&flags, environment),
        Command::Inspect(args) => inspect(&args, environment),
        Command::Issuance(command) => issuance(&command),
        Command::Policy(command) => policy(&command),
        Command::Render(RenderCommand::Gateway(args)) => render_gateway(&args),
        Command::Authority(command) => authority(&command),
        Command::Federation(command) => print(&operate::federation::run(&command).map_err(failed)?),
        Command::Token(args) => token(&args),
        Command::Recover(args) => recover(&args),
        Command::Quickstart(args) => quickstart(&args, environment),
        Command::Config(flags) => config(&flags, environment),
    }
}

/// The only look at the process's environment. Variables that are not Unicode can't be ours.
fn environment() -> Environment {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

fn config(flags: &ServeArgs, environment: &Environment) -> Result<ExitCode, CommandError> {
    let yaml = ServeConfig::load(flags, environment)?.to_yaml().map_err(failed)?;
    print(&yaml)
}

/// To stdout. A reader that has gone away is nobody's error.
fn print(text: &str) -> Result<ExitCode, CommandError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(format!("stdout: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn serve(flags: &ServeArgs, environment: &Environment) -> Result<ExitCode, CommandError> {
    let config = ServeConfig::load(flags, environment)?;
    telemetry::filter(environment)?;
    serve::run(config, environment).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn agent(flags: &AgentArgs, environment: &Environment) -> Result<ExitCode, CommandError> {
    let config = AgentConfig::load(flags, environment)?;
    telemetry::filter(environment)?;
    agent::run(config, environment).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &InspectArgs, environment: &Environment) -> Result<ExitCode, CommandError> {
    let request = inspect::Request {
        source: args.source.clone(),
        bundle: args.bundle.clone(),
        server_name: args.server_name.clone(),
        format: args.output,
        palette: palette(environment),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let inspection = runtime.block_on(inspect::inspect(&request, SystemClock.now())).map_err(failed)?;
    for note in &inspection.notes {
        let _closed_pipe = writeln!(io::stderr(), "note: {note}");
    }
    let printed = print(&inspection.output)?;
    Ok(if inspection.is_sound { printed } else { EXIT_UNSOUND.into() })
}

fn issuance(command: &IssuanceCommand) -> Result<ExitCode, CommandError> {
    let text = match command {
        IssuanceCommand::List(args) => operate::issuance_list(args),
        IssuanceCommand::Deny(args) => operate::denial::deny(args),
        IssuanceCommand::Allow(args) => operate::denial::allow(args),
        IssuanceCommand::Denied(args) => operate::denial::denied(args),
    };
    print(&text.map_err(failed)?)
}

fn policy(command: &PolicyCommand) -> Result<ExitCode, CommandError> {
    let text = match command {
        PolicyCommand::List(args) => operate::policy::listed(args),
        PolicyCommand::Gateways(args) => operate::policy::gateways_listed(args),
        PolicyCommand::Explain(args) => operate::policy::explained(args),
        PolicyCommand::Diff(args) => operate::policy::previewed(args),
        PolicyCommand::Watch(args) => operate::policy::watched(args).map(|()| String::new()),
    };
    print(&text.map_err(failed)?)
}

fn render_gateway(args: &RenderGatewayArgs) -> Result<ExitCode, CommandError> {
    let rendered = gateway::render(&args.into(), args.output.into()).map_err(failed)?;
    for note in &rendered.notes {
        let _closed_pipe = writeln!(io::stderr(), "note: {note}");
    }
    print(&rendered.output)
}

fn authority(command: &AuthorityCommand) -> Result<ExitCode, CommandError> {
    let text = match command {
        AuthorityCommand::Export(args) => operate::authority::export(args),
        AuthorityCommand::Import(args) => operate::authority::import(args),
        AuthorityCommand::X509(command) => operate::rotation::rotate(AuthorityKind::X509, command),
        AuthorityCommand::Jwt(command) => operate::rotation::rotate(AuthorityKind::Jwt, command),
    };
    print(&text.map_err(failed)?)
}

fn token(args: &TokenArgs) -> Result<ExitCode, CommandError> {
    print(&operate::token(args).map_err(failed)?)
}

fn recover(args: &RecoverArgs) -> Result<ExitCode, CommandError> {
    let (text, sound) = operate::recover(args).map_err(failed)?;
    print(&text)?;
    Ok(if sound { ExitCode::SUCCESS } else { EXIT_ERROR.into() })
}

fn quickstart(args: &QuickstartArgs, environment: &Environment) -> Result<ExitCode, CommandError> {
    quickstart::run(args, palette(environment)).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Colours are for terminals, unless the user wants none.
fn palette(environment: &Environment) -> Palette {
    let colours = io::stdout().is_terminal() && !environment.contains_key("NO_COLOR");
    if colours { Palette::Colours } else { Palette::Plain }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}

#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Command {
        let matches = args::command().try_get_matches_from(["countersign"].iter().chain(arguments)).unwrap();
        Cli::from_arg_matches(&matches).unwrap().command
    }

    #[test]
    fn what_the_agent_is_given_is_what_it_takes() {
        let flags = ["render", "gateway", "gw/gw", "--image", "x", "--trust-domain", "a.example", "-o", "json"];
        let ids = ["--ca-identity", "spiffe://a.example/ns/countersign/sa/countersign", "--ca-address", "ca:15012"];
        let Command::Render(RenderCommand::Gateway(args)) = parse(&[&flags[..], &ids].concat()) else {
            panic!("another command")
        };
        let rendered = gateway::render(&(&args).into(), args.output.into()).unwrap();
        let list: serde_json::Value = serde_json::from_str(&rendered.output).unwrap();
        let patch =
            "/items/4/spec/provider/kubernetes/envoyDeployment/patch/value/spec/template/spec/initContainers/0/args";
        let arguments: Vec<&str> = list
            .pointer(patch)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| argument.as_str().unwrap())
            .collect();
        let Command::Agent(flags) = parse(&arguments) else { panic!("another command") };
        let pod = Environment::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())]);
        let config = AgentConfig::load(&flags, &pod).unwrap();
        assert_eq!(config.trust_domain.as_str(), "a.example");
        assert_eq!((config.authority.addresses.len(), config.authority.policy_addresses.len()), (1, 1));
    }
}
