//! What nftables takes for kube-proxy's rules: all of them at once, and the transaction for one endpoint that goes or comes.
//! kube-proxy has written them; what it takes itself to put them together, and the second that it waits between two
//! transactions, are left out in its favour.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::lab::command::{run, run_in};

const TABLE: &str = "ip kube-proxy";

/// The rules of a standing node, and the transactions for one endpoint of them.
pub struct Rules {
    node: String,
    dump: PathBuf,
    goes: PathBuf,
    comes: PathBuf,
}

impl Rules {
    /// Reads what kube-proxy has written in a node's namespace; files go into `folder`.
    pub fn read(node: &str, folder: &Path) -> Result<Self> {
        let dump = folder.join("kube-proxy.nft");
        let listed = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{node}"), "nft", "list", "ruleset"])
            .stdin(Stdio::null())
            .stdout(File::create(&dump).with_context(|| format!("cannot write {}", dump.display()))?)
            .status()?;
        ensure!(listed.success(), "nft cannot list the rules of {node} ({listed})");
        let map = run_in(node, "nft", &["list", "map", "ip", "kube-proxy", "service-ips"])?;
        let service = chain_of(&map).context("kube-proxy's map of Services leads nowhere")?;
        let chain = run_in(node, "nft", &["list", "chain", "ip", "kube-proxy", &service])?;
        let (goes, comes) = transactions(&service, &rules(&chain))
            .with_context(|| format!("the chain {service} has another shape than is known:\n{chain}"))?;
        let this = Self { node: node.to_owned(), dump, goes: folder.join("goes.nft"), comes: folder.join("comes.nft") };
        fs::write(&this.goes, goes)?;
        fs::write(&this.comes, comes)?;
        Ok(this)
    }

    /// Seconds of `nft -f` of all rules.
    pub fn load_s(&self) -> Result<f64> {
        self.load_s_of(&self.dump)
    }

    /// Seconds of `nft -f` of a file, into a namespace that has no rules.
    pub fn load_s_of(&self, file: &Path) -> Result<f64> {
        let empty = Namespace::new(&format!("{}-empty", self.node))?;
        timed(&empty.0, file)
    }

    /// Seconds of the transaction by which an endpoint goes, and then of the one by which it is back.
    pub fn change_s(&self) -> Result<[f64; 2]> {
        Ok([timed(&self.node, &self.goes)?, timed(&self.node, &self.comes)?])
    }
}

/// One that goes when this is dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Result<Self> {
        run("ip", ["netns", "add", name])?;
        Ok(Self(name.to_owned()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", ["netns", "delete", &self.0]);
    }
}

fn timed(namespace: &str, file: &Path) -> Result<f64> {
    let file = file.to_string_lossy();
    let start = Instant::now();
    run_in(namespace, "nft", &["-f", &file])?;
    Ok(start.elapsed().as_secs_f64())
}

/// The first Service's chain in the map that packets are looked up in.
fn chain_of(map: &str) -> Option<String> {
    map.split_once("goto ").and_then(|(_, rest)| rest.split([' ', ',', '\n', '}']).next()).map(str::to_owned)
}

/// The rules of a listed chain, one each; nft breaks those with many elements into lines.
fn rules(chain: &str) -> Vec<String> {
    let body = chain.split_once("chain ").and_then(|(_, rest)| rest.split_once('{')).map_or("", |(_, body)| body);
    let (mut rules, mut open) = (vec![String::new()], 0_i32);
    for line in body.lines() {
        let rule = rules.last_mut().map(|rule| {
            rule.push_str(line.trim());
            rule.push(' ');
        });
        open += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        match open {
            // The chain's own brace.
            ..0 => break,
            0 if rule.is_some() => rules.push(String::new()),
            _ => {}
        }
    }
    let of_chain = |rule: &&String| !matches!(rule.trim(), "" | "}" | "} }");
    rules.iter().filter(of_chain).map(|rule| rule.trim().to_owned()).collect()
}

/// As kube-proxy writes them: the Service's chain anew with one endpoint less, and as it was.
fn transactions(service: &str, rules: &[String]) -> Option<(String, String)> {
    let spread = rules.iter().find(|rule| rule.contains("numgen random mod"))?;
    let (head, rest) = spread.split_once("map {")?;
    let elements = rest.trim_end().trim_end_matches('}').split(',').map(str::trim);
    let elements: Vec<&str> = elements.filter(|element| !element.is_empty()).collect();
    let (_, left) = elements.split_last().filter(|(_, left)| !left.is_empty())?;
    let head = head.replace(&format!("mod {}", elements.len()), &format!("mod {}", left.len()));
    let fewer = format!("{head}map {{ {} }}", left.join(", "));
    let anew = |spread_anew: &str| {
        let rules = rules.iter().map(|rule| if rule == spread { spread_anew } else { rule.as_str() });
        let added: String = rules.map(|rule| format!("add rule {TABLE} {service} {rule}\n")).collect();
        format!("flush chain {TABLE} {service}\n{added}")
    };
    Some((anew(&fewer), anew(spread)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kube-proxy 1.37 has it.
    const CHAIN: &str = "table ip kube-proxy {\n\tchain service-A-default/bench-0/udp/dns {\n\
        \t\tmeta l4proto udp dnat ip to numgen random mod 3 map { 0 : 10.248.0.0 . 5353, 1 : 10.248.0.1 . 5353,\n\
        \t\t\t2 : 10.248.0.2 . 5353 }\n\t}\n}\n";

    #[test]
    fn an_endpoint_goes_and_comes_as_kube_proxy_has_it() {
        let (goes, comes) = transactions("service-A", &rules(CHAIN)).unwrap();
        let rule = |spread: &str| {
            format!(
                "flush chain ip kube-proxy service-A\n\
                 add rule ip kube-proxy service-A meta l4proto udp dnat ip to numgen random {spread}\n"
            )
        };
        assert_eq!(goes, rule("mod 2 map { 0 : 10.248.0.0 . 5353, 1 : 10.248.0.1 . 5353 }"));
        assert_eq!(comes, rule("mod 3 map { 0 : 10.248.0.0 . 5353, 1 : 10.248.0.1 . 5353, 2 : 10.248.0.2 . 5353 }"));
    }

    #[test]
    fn the_first_chain_of_the_map_is_a_services() {
        let map = "elements = { 10.96.16.0 . udp . 53 : goto service-A-default/bench-0/udp/dns,\n 10.96.16.1 . udp . 53 : goto service-B }";
        assert_eq!(chain_of(map).unwrap(), "service-A-default/bench-0/udp/dns");
    }
}
