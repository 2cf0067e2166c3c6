//! The text of one file into objects, each with the line where its document starts.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::model::{Object, Refusal, Source};

/// Standard kinds that ask nothing of a node's dataplane; manifests of whole applications are full of them.
const NO_CONCERN: &[&str] = &[
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "Endpoints",
    "HorizontalPodAutoscaler",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "Job",
    "Lease",
    "LimitRange",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PriorityClass",
    "ReplicaSet",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Secret",
    "ServiceAccount",
    "StatefulSet",
    "StorageClass",
];

/// Kinds that would change what happens to packets, were they in force.
const NOT_YET: &[&str] = &[
    "NetworkPolicy",
    "ClusterNetworkPolicy",
    "Gateway",
    "GatewayClass",
    "TCPRoute",
    "UDPRoute",
    "TLSRoute",
    "ReferenceGrant",
];

/// What a file gave.
#[derive(Debug, Default)]
pub struct Documents {
    pub objects: Vec<(Object, u32)>,
    pub refusals: Vec<Refusal>,
}

/// Reads every document of `text`; `path` tells the format by its ending and is named in refusals.
pub fn parse(path: &Path, text: &str) -> Documents {
    let mut documents = Documents::default();
    let mut refuse = |line: u32, object: String, problem: Problem| {
        let source = Source::File { path: path.to_owned(), line };
        documents.refusals.push(Refusal {
            object,
            source,
            reason: problem.reason,
            next_step: problem.next_step.to_owned(),
        });
    };
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let parts = if is_json { vec![Part { text, line: 1 }] } else { split(text) };
    for part in parts {
        let objects = if is_json { json(part.text) } else { yaml(part) };
        match objects {
            Ok(found) => {
                for Found { line, outcome } in found {
                    match outcome {
                        Ok(Some(object)) => documents.objects.push((object, line)),
                        Ok(None) => {}
                        Err((name, problem)) => refuse(problem.line.unwrap_or(line), name, problem),
                    }
                }
            }
            Err(problem) => refuse(problem.line.unwrap_or(part.line), guess_name(part.text), problem),
        }
    }
    documents
}

/// One object of a document, or why there is none.
struct Found {
    line: u32,
    /// `Ok(None)`: of no concern. `Err`: kind and name, and what is wrong.
    outcome: Result<Option<Object>, (String, Problem)>,
}

#[derive(Debug)]
struct Problem {
    /// Where it is known better than by the document's start.
    line: Option<u32>,
    reason: String,
    next_step: &'static str,
}

impl Problem {
    fn new(reason: impl Into<String>, next_step: &'static str) -> Self {
        Self { line: None, reason: reason.into(), next_step }
    }
}

const FIX_AND_SAVE: &str = "its last good version stays in force; correct the file and save it";

/// A document inside a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'t> {
    text: &'t str,
    /// Of its first line in the file, from 1.
    line: u32,
}

/// Splits a file at its document markers. A marker at the start of a line ends a document wherever it stands, inside
/// a block scalar too (YAML 1.2.2 section 9.1.2), so lines are enough to see. Documents without content are left out.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    // Where the document's text starts and the line there.
    let (mut start, mut line_of_start) = (0, 1);
    let (mut at, mut line) = (0, 1);
    let mut push = |from: usize, to: usize, line: u32| {
        if let Some(part) = trimmed(&text[from..to], line) {
            parts.push(part);
        }
    };
    for written in text.split_inclusive('\n') {
        let is_marker = |marker: &str| {
            written
                .strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if is_marker("---") || is_marker("...") {
            push(start, at, line_of_start);
            (start, line_of_start) = (at + 3, line);
        }
        at += written.len();
        line += 1;
    }
    push(start, text.len(), line_of_start);
    parts
}

/// Without the blank, comment and directive lines before the content; `None` if nothing is left.
fn trimmed(text: &str, line: u32) -> Option<Part<'_>> {
    let mut at = 0;
    for (n, written) in text.split_inclusive('\n').enumerate() {
        let content = written.trim();
        let directive = written.starts_with('%') && (n > 0 || line == 1);
        if !content.is_empty() && !content.starts_with('#') && !directive {
            return Some(Part { text: &text[at..], line: line + n as u32 });
        }
        at += written.len();
    }
    None
}

/// What every object starts with, as far as it is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeadMetadata>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

impl Head {
    fn describe(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("object of no kind");
        let metadata = self.metadata.as_ref();
        let name = metadata.and_then(|m| m.name.as_deref()).unwrap_or("without a name");
        match metadata.and_then(|m| m.namespace.as_deref()) {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            // As the model names it.
            None if matches!(kind, "Service" | "EndpointSlice" | "Pod") => format!("{kind} default/{name}"),
            None => format!("{kind} {name}"),
        }
    }
}

/// How an object's text becomes a type: from YAML text where lines are known, from a tree inside lists and JSON.
trait Reading {
    fn read<T: DeserializeOwned>(self) -> Result<T, Problem>;
}

impl Reading for Part<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, Problem> {
        // Bounds for files of many thousand objects; those on aliases stay at their defaults against expanding bombs.
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! { max_nodes: 50_000_000, max_events: 100_000_000, max_total_scalar_bytes: 1 << 30, },
        };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
            let line =
                error.location().and_then(|at| u32::try_from(at.line()).ok()).map(|line| self.line + line.max(1) - 1);
            let text = one_line(&error.to_string());
            // It counts lines from the document's start; the refusal names the file's.
            let text = text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]);
            Problem { line, reason: format!("cannot be read: {text}"), next_step: FIX_AND_SAVE }
        })
    }
}

impl Reading for Value {
    fn read<T: DeserializeOwned>(self) -> Result<T, Problem> {
        serde_json::from_value(self).map_err(|error| Problem::new(format!("cannot be read: {error}"), FIX_AND_SAVE))
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn yaml(part: Part<'_>) -> Result<Vec<Found>, Problem> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        items: Vec<Spanned<Value>>,
    }
    let head: Head = part.read()?;
    if !is_list(&head) {
        return Ok(vec![Found { line: part.line, outcome: object(&head, part) }]);
    }
    let list: List = part.read()?;
    let item = |item: Spanned<Value>| {
        let line = u32::try_from(item.defined.line()).map_or(part.line, |line| part.line + line.max(1) - 1);
        listed(&head, item.value, line)
    };
    Ok(list.items.into_iter().map(item).collect())
}

fn json(text: &str) -> Result<Vec<Found>, Problem> {
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = value.map_err(|error| {
            let line = u32::try_from(error.line()).ok().filter(|line| *line > 0);
            Problem { line, reason: format!("not JSON: {error}"), next_step: FIX_AND_SAVE }
        })?;
        let head: Head = value.clone().read()?;
        match value {
            Value::Object(mut map) if is_list(&head) => {
                let items: Vec<Value> = map.remove("items").unwrap_or(Value::Array(Vec::new())).read()?;
                found.extend(items.into_iter().map(|item| listed(&head, item, 1)));
            }
            value => found.push(Found { line: 1, outcome: object(&head, value) }),
        }
    }
    Ok(found)
}

/// `List`, and `ServiceList` and the like as the API gives them.
fn is_list(head: &Head) -> bool {
    head.kind.as_deref().is_some_and(|kind| kind.ends_with("List"))
}

/// An item of a list; those of a typed list do not repeat its kind.
fn listed(list: &Head, mut item: Value, line: u32) -> Found {
    if let (Value::Object(map), Some(kind), Some(version)) = (&mut item, &list.kind, &list.api_version)
        && let Some(kind) = kind.strip_suffix("List").filter(|kind| !kind.is_empty())
    {
        map.entry("kind").or_insert_with(|| kind.into());
        map.entry("apiVersion").or_insert_with(|| version.as_str().into());
    }
    let outcome = match item.clone().read::<Head>() {
        Ok(head) => object(&head, item),
        Err(problem) => Err(("item of a list".to_owned(), problem)),
    };
    Found { line, outcome }
}

fn object(head: &Head, reading: impl Reading) -> Result<Option<Object>, (String, Problem)> {
    typed(head, reading).map_err(|problem| (head.describe(), problem))
}

fn typed(head: &Head, reading: impl Reading) -> Result<Option<Object>, Problem> {
    fn read<T: DeserializeOwned + Into<Object>>(
        head: &Head,
        reading: impl Reading,
        version: &str,
    ) -> Result<Option<Object>, Problem> {
        if head.api_version.as_deref() != Some(version) {
            let written = head.api_version.as_deref().unwrap_or("absent");
            return Err(Problem::new(format!("apiVersion is {written}, wanted {version}"), FIX_AND_SAVE));
        }
        if head.metadata.as_ref().and_then(|metadata| metadata.name.as_deref()).is_none_or(str::is_empty) {
            return Err(Problem::new("it has no metadata.name", FIX_AND_SAVE));
        }
        Ok(Some(reading.read::<T>()?.into()))
    }
    match head.kind.as_deref() {
        Some("Service") => read::<Service>(head, reading, "v1"),
        Some("EndpointSlice") => read::<EndpointSlice>(head, reading, "discovery.k8s.io/v1"),
        Some("Pod") => read::<Pod>(head, reading, "v1"),
        Some("Node") => read::<Node>(head, reading, "v1"),
        Some("ServiceCIDR") => read::<ServiceCidr>(head, reading, "networking.k8s.io/v1"),
        Some(kind) if NO_CONCERN.contains(&kind) => Ok(None),
        Some(kind) if NOT_YET.contains(&kind) => Err(Problem::new(
            format!("kind {kind} is not in force: this version does not know it"),
            "do not rely on it here; take it out of the folder",
        )),
        Some(kind) => Err(Problem::new(
            format!("unknown kind {kind}"),
            "correct the kind (Service, EndpointSlice, Pod, Node, ServiceCIDR, List), or take it out of the folder",
        )),
        None => Err(Problem::new("it has no kind", FIX_AND_SAVE)),
    }
}

/// Kind and name of a document that is no YAML, by its lines: good enough to tell a person which one is meant.
fn guess_name(text: &str) -> String {
    let value = |line: &str, key: &str| {
        let value =
            line.trim().trim_start_matches(['{', '"']).strip_prefix(key)?.trim_start_matches('"').strip_prefix(':')?;
        Some(value.trim().trim_matches(['"', '\'', ',']).to_owned())
            .filter(|value| value.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let kind = text.lines().find_map(|line| value(line, "kind"));
    let name = text.lines().skip_while(|line| !line.contains("metadata")).find_map(|line| value(line, "name"));
    match (kind, name) {
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind,
        _ => "document".to_owned(),
    }
}

/// One object from YAML text, for tests.
#[cfg(test)]
pub(crate) fn parse_one(text: &str) -> Result<Object, String> {
    let mut documents = parse(Path::new("test.yaml"), text);
    match documents.objects.pop() {
        Some((object, _)) if documents.refusals.is_empty() => Ok(object),
        _ => Err(format!("{:?}", documents.refusals)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_split_and_lines_are_kept() {
        let text = "# head\n\n---\na: 1\n--- # next\n\nb: |\n  x\n...\n---\n# nothing\n---\nc: 3";
        let parts: Vec<(u32, &str)> = split(text).into_iter().map(|part| (part.line, part.text.trim())).collect();
        assert_eq!(parts, [(4, "a: 1"), (7, "b: |\n  x"), (13, "c: 3")]);
        assert_eq!(split("----\n"), [Part { text: "----\n", line: 1 }]);
        assert_eq!(split("%YAML 1.2\n---\r\na: 1\r\n").len(), 1);
        assert_eq!(split("--- {a: 1}"), [Part { text: " {a: 1}", line: 1 }]);
    }

    #[test]
    fn a_document_that_is_no_yaml_is_still_named() {
        assert_eq!(guess_name("kind: Service\nmetadata:\n  name: web\nspec: ["), "Service web");
        assert_eq!(guess_name("{\"kind\": \"Pod\",\n\"metadata\": {\n\"name\": \"p\","), "Pod p");
        assert_eq!(guess_name("]["), "document");
    }
}
