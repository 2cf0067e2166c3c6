//! The `atalho` binary: arguments and start order, nothing else.

mod ask;
mod capture;
mod kernel_side;
mod pcapng;
mod replay;
mod reports;
mod run;
mod uninstall;
mod workers;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use atalho_control::check::CheckOptions;
use atalho_control::config::Config;
use atalho_control::why::{Query, WhyOptions};
use atalho_sys::ethtool::{self, FUNNEL_OFF, Offload, UPLINK_OFF};
use capture::CaptureArguments;
use clap::{Args, Parser, Subcommand, ValueEnum};
use replay::ReplayArguments;

/// A Kubernetes node dataplane in userspace.
#[derive(Parser)]
#[command(name = "atalho", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node's dataplane in the foreground until SIGTERM.
    Run(RunArguments),
    /// What would happen to this packet, and because of which object?
    Why(WhyArguments),
    /// Captured packets through the engine, without a NIC or privileges, the same result every time.
    Replay(ReplayArguments),
    /// How the running daemon is.
    Status(ask::StatusArguments),
    /// Services as this node has them: VIPs, endpoints, and why an endpoint takes no new flows.
    Svc(ask::SvcArguments),
    /// The connections of this node as they are now.
    Flows(ask::FlowsArguments),
    /// What was dropped, what the reason means and what to do next.
    Drops(ask::DropsArguments),
    /// Which objects and settings would be refused, without a daemon.
    Check(CheckArguments),
    /// Take away everything that a daemon left on this node.
    Uninstall(ConfigArgument),
    /// The node's hardware: what is there, and which core would serve which queue.
    Hwconf {
        #[command(subcommand)]
        command: Hwconf,
    },
}

#[derive(Args)]
struct ConfigArgument {
    /// Configuration file (TOML); every key is optional.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
struct OutputArgument {
    /// Output for people or for programs.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    output: Format,
}

impl OutputArgument {
    fn is_json(&self) -> bool {
        self.output == Format::Json
    }
}

#[derive(Args)]
pub struct RunArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Read objects from the files below this folder instead of an API server.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// How to reach the API server; default: $KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    capture: CaptureArguments,
}

#[derive(Args)]
struct WhyArguments {
    /// Ask the objects below this folder, without a daemon, a NIC or privileges.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgument,
    /// The node to be; default: the configuration's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// One packet a line as JSON; - reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "packet")]
    batch: Option<PathBuf>,
    /// Where the packet comes in: uplink, node, or pod:NAMESPACE/NAME.
    #[arg(long = "in", value_name = "PORT")]
    port: Option<String>,
    #[command(flatten)]
    output: OutputArgument,
    /// PROTOCOL SOURCE[:PORT] DESTINATION[:PORT]
    #[arg(num_args = 3, value_names = ["PROTOCOL", "SOURCE", "DESTINATION"], required_unless_present = "batch")]
    packet: Option<Vec<String>>,
}

#[derive(Args)]
struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Subcommand)]
enum Hwconf {
    /// Queues, rings, RSS, interrupts, NUMA, driver and XDP features of an interface; cores and siblings.
    Show(HwconfArguments),
    /// Worker per core per queue, each line with its reason.
    Plan(HwconfArguments),
}

#[derive(Args)]
struct HwconfArguments {
    /// Default: the configuration's uplink, else the interface with the default route.
    interface: Option<String>,
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Nothing could be done; the reason stands on standard error.
const BROKEN: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments).map(|()| 0),
        Command::Why(arguments) => Ok(why(arguments)),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Status(arguments) => ask::status(arguments),
        Command::Svc(arguments) => ask::svc(arguments),
        Command::Flows(arguments) => ask::flows(arguments),
        Command::Drops(arguments) => ask::drops(arguments),
        Command::Check(arguments) => Ok(check(arguments)),
        Command::Uninstall(arguments) => load(&arguments).and_then(|config| uninstall::uninstall(&config)).map(|()| 0),
        Command::Hwconf { command } => hwconf(&command).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "atalho: {error:#}");
            ExitCode::from(BROKEN)
        }
    }
}

fn load(arguments: &ConfigArgument) -> anyhow::Result<Config> {
    Ok(Config::load(arguments.config.as_deref())?)
}

fn why(arguments: WhyArguments) -> u8 {
    let options = WhyOptions {
        manifests: arguments.manifests,
        config: arguments.config.config,
        node: arguments.node,
        query: arguments.packet,
        port: arguments.port,
        batch: arguments.batch,
        json: arguments.output.is_json(),
    };
    let ask = |config: &Config, queries: &[Query]| {
        let request = serde_json::json!({ "ask": "why", "queries": queries });
        let reply = atalho_control::server::ask(&config.node.run_dir, &config.node.name, &request)
            .map_err(|error| error.to_string())?;
        serde_json::from_value(reply["answers"].clone())
            .map_err(|error| format!("the daemon's answer could not be read ({error}); is it of the same version?"))
    };
    atalho_control::why::run(&options, ask, &mut std::io::stdout().lock())
}

fn check(arguments: CheckArguments) -> u8 {
    // A configuration that cannot be read is told by the check itself.
    let machine = Config::load(arguments.config.config.as_deref()).map(|config| wrong_offloads(&config));
    let options = CheckOptions {
        manifests: arguments.manifests,
        config: arguments.config.config,
        node: arguments.node,
        machine: machine.unwrap_or_default(),
        json: arguments.output.is_json(),
    };
    atalho_control::check::run(&options, &mut std::io::stdout().lock())
}

/// Offloads that a daemon turns off and that are on. An interface that is not there has none: no daemon has run yet.
fn wrong_offloads(config: &Config) -> Vec<String> {
    let uplink = config.uplink.interface.iter().flat_map(|uplink| UPLINK_OFF.map(|offload| (uplink, offload)));
    let funnel = FUNNEL_OFF.map(|offload| (&config.funnel.names[1], offload));
    let is_on = |(interface, offload): &(&String, Offload)| ethtool::get(interface, *offload).unwrap_or(false);
    let text = |(interface, offload): (&String, Offload)| {
        format!(
            "{interface}: {} is on, so workers would see packets that are not finished, or joined; turn it off with \
             `ethtool -K`, or start the daemon, which keeps it off",
            offload.name()
        )
    };
    uplink.chain(funnel).filter(is_on).map(text).collect()
}

fn hwconf(command: &Hwconf) -> anyhow::Result<()> {
    let (Hwconf::Show(arguments) | Hwconf::Plan(arguments)) = command;
    let config = load(&arguments.config)?;
    let interface = match arguments.interface.clone().or_else(|| config.uplink.interface.clone()) {
        Some(name) => name,
        None => atalho_control::node::default_interface()?,
    };
    let facts = atalho_hwconf::probe(&interface)?;
    let json = arguments.output.is_json();
    let text = match command {
        Hwconf::Show(_) if json => serde_json::to_string_pretty(&facts)?,
        Hwconf::Show(_) => atalho_hwconf::render::facts_text(&facts),
        Hwconf::Plan(_) => {
            let plan = atalho_hwconf::plan(&facts, &run::wishes(&config))?;
            if json { serde_json::to_string_pretty(&plan)? } else { atalho_hwconf::render::plan_text(&plan) }
        }
    };
    Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
}
