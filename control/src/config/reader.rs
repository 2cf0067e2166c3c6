//! Walks the spanned TOML tree: takes known keys, remembers them, and reports every other one with the nearest of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigErrors, Problem};

pub(super) type Value<'t> = DeValue<'t>;

/// A type that a key's value can have.
pub(super) trait FromToml: Sized {
    /// For messages: "... is 5, wanted {WANTED}".
    const WANTED: &'static str;
    fn from_toml(value: &Value<'_>) -> Option<Self>;
}

/// A file being read.
pub(super) struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(path: &'t Path, text: &'t str) -> Result<Self, ConfigErrors> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { path, text, root, known: Vec::new(), problems: Vec::new() }),
            Err(error) => {
                let line = error.span().map_or(0, |span| line_of(text, span.start));
                let message = format!("not TOML: {}", error.message().trim());
                Err(ConfigErrors(vec![Problem { file: path.to_owned(), line, message }]))
            }
        }
    }

    /// Reads the table `name`; keys that `read` did not ask for are problems.
    pub(super) fn section(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_, 't>)) {
        self.known.push(name);
        let empty = DeTable::new();
        let table = match self.root.get_ref().get(name) {
            None => &empty,
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => table,
                other => {
                    let message = format!("{name} is {}, wanted a table: [{name}]", describe(other));
                    self.problems.push(problem(self.path, self.text, value.span().start, message));
                    return;
                }
            },
        };
        let mut section =
            Section { name, table, path: self.path, text: self.text, known: Vec::new(), problems: BTreeMap::new() };
        read(&mut section);
        let Section { known, problems, .. } = section;
        self.problems.extend(problems.into_values());
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let written: &str = key.get_ref();
            let message = match nearest(written, &known) {
                Some(near) => format!("unknown key {name}.{written}; did you mean {name}.{near}?"),
                None => format!("unknown key {name}.{written}; [{name}] knows {}", known.join(", ")),
            };
            self.problems.push(problem(self.path, self.text, key.span().start, message));
        }
    }

    /// All problems, in the order of the file.
    pub(super) fn finish(mut self) -> Result<(), ConfigErrors> {
        for key in self.root.get_ref().keys().filter(|key| !self.known.contains(&key.get_ref().as_ref())) {
            let written: &str = key.get_ref();
            let message = match nearest(written, &self.known) {
                Some(near) => format!("unknown key {written}; did you mean [{near}]?"),
                None => format!("unknown key {written}; the tables are {}", self.known.join(", ")),
            };
            self.problems.push(problem(self.path, self.text, key.span().start, message));
        }
        self.problems.sort_by_key(|problem| problem.line);
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigErrors(self.problems)) }
    }
}

/// One table of the file.
pub(super) struct Section<'s, 't> {
    name: &'static str,
    table: &'s DeTable<'t>,
    path: &'s Path,
    text: &'s str,
    known: Vec<&'static str>,
    /// One problem a key: the first.
    problems: BTreeMap<&'static str, Problem>,
}

impl Section<'_, '_> {
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Puts the value of `key` into `target`; leaves it alone where the key is absent or wrong.
    pub(super) fn take<T: FromToml>(&mut self, key: &'static str, target: &mut T) {
        self.known.push(key);
        let Some(value) = self.table.get(key) else { return };
        match T::from_toml(value.get_ref()) {
            Some(value) => *target = value,
            None => self.report(key, format!("is {}, wanted {}", describe(value.get_ref()), T::WANTED)),
        }
    }

    /// Reports `key` unless `holds`; keys that are absent hold by their defaults.
    pub(super) fn check(&mut self, key: &'static str, holds: bool, message: &str) {
        if !holds && self.has(key) {
            self.report(key, message.to_owned());
        }
    }

    fn report(&mut self, key: &'static str, message: String) {
        let offset = self.table.get(key).map_or(0, |value| value.span().start);
        let message = format!("{}.{key} {message}", self.name);
        self.problems.entry(key).or_insert_with(|| problem(self.path, self.text, offset, message));
    }
}

fn problem(path: &Path, text: &str, offset: usize, message: String) -> Problem {
    Problem { file: path.to_owned(), line: line_of(text, offset), message }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Items of a list that a message repeats.
const LISTED_ITEMS: usize = 4;

/// A value as a person would say it.
fn describe(value: &Value<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the string {s:?}"),
        DeValue::Integer(n) => format!("the number {}", n.as_str()),
        DeValue::Float(n) => format!("the number {}", n.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(list) => {
            let mut items: Vec<String> = list.iter().take(LISTED_ITEMS).map(|item| describe(item.get_ref())).collect();
            items.extend((list.len() > LISTED_ITEMS).then(|| "...".to_owned()));
            format!("the list [{}]", items.join(", "))
        }
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The nearest of `known` by edit distance, if near enough to be meant.
pub(super) fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = known.iter().map(|key| (edit_distance(written, key), *key)).min()?;
    (distance <= 1.max(written.chars().count() / 3)).then_some(near)
}

/// Levenshtein's distance, with neighbouring letters swapped counting as one edit (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

impl FromToml for String {
    const WANTED: &'static str = "a string";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl FromToml for PathBuf {
    const WANTED: &'static str = "a path";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_str().map(PathBuf::from)
    }
}

impl FromToml for bool {
    const WANTED: &'static str = "true or false";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl FromToml for u32 {
    const WANTED: &'static str = "a number from 0 to 4294967295";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        let number = value.as_integer()?;
        Self::from_str_radix(number.as_str(), number.radix()).ok()
    }
}

impl FromToml for u16 {
    const WANTED: &'static str = "a number from 0 to 65535";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        u32::from_toml(value)?.try_into().ok()
    }
}

impl FromToml for IpAddr {
    const WANTED: &'static str = "an IP address in quotes";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl FromToml for SocketAddr {
    const WANTED: &'static str = "an address and port in quotes, such as \"0.0.0.0:10256\" or \"[::]:10256\"";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl FromToml for IpNet {
    const WANTED: &'static str = "a CIDR in quotes, such as \"10.244.0.0/16\"";
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_str()?.parse::<Self>().ok().map(|cidr| cidr.trunc())
    }
}

/// `Some` of a value that stands there; the key's absence is the caller's `None`.
impl<T: FromToml> FromToml for Option<T> {
    const WANTED: &'static str = T::WANTED;
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        T::from_toml(value).map(Some)
    }
}

impl<T: FromToml + ListItem> FromToml for Vec<T> {
    const WANTED: &'static str = T::LIST;
    fn from_toml(value: &Value<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| T::from_toml(item.get_ref())).collect()
    }
}

/// What a list of these is called in messages.
pub(super) trait ListItem {
    const LIST: &'static str;
}

macro_rules! list_items {
    ($( $item:ty => $text:literal ),*) => { $( impl ListItem for $item { const LIST: &'static str = $text; } )* };
}

list_items! {
    String => "a list of strings",
    u16 => "a list of ports",
    IpAddr => "a list of IP addresses in quotes",
    SocketAddr => "a list of addresses with ports, such as [\"0.0.0.0:10256\"]",
    IpNet => "a list of CIDRs, such as [\"10.244.0.0/16\"]"
}
