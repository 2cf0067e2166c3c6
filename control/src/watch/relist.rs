//! A re-list, buffered and swapped in when complete: what the list no longer holds was deleted while we did not look.

use std::collections::HashSet;

use crate::model::{Change, Key, Object, Source};

/// The keys that one watch has handed over, and the list that is coming in.
#[derive(Debug, Default)]
pub struct Relist {
    known: HashSet<Key>,
    coming: Vec<Object>,
}

impl Relist {
    /// A list begins; one that had begun before broke off and counts for nothing.
    pub fn begin(&mut self) {
        self.coming.clear();
    }

    /// An object of the list.
    pub fn buffer(&mut self, object: Object) {
        self.coming.push(object);
    }

    /// The list is complete: what it deletes, then what it holds.
    pub fn finish(&mut self) -> Vec<Change> {
        let listed: HashSet<Key> = self.coming.iter().map(Object::key).collect();
        let mut gone: Vec<Key> = self.known.difference(&listed).cloned().collect();
        gone.sort();
        let deletions = gone.into_iter().map(Change::Delete);
        let changes = deletions.chain(self.coming.drain(..).map(|object| Change::Put(object, Source::Api))).collect();
        self.known = listed;
        changes
    }

    /// An object that was added or changed.
    pub fn put(&mut self, object: Object) -> Change {
        self.known.insert(object.key());
        Change::Put(object, Source::Api)
    }

    /// An object that was deleted.
    pub fn delete(&mut self, key: &Key) -> Change {
        self.known.remove(key);
        Change::Delete(key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::api::Service;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn service(name: &str) -> Object {
        let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..Default::default() };
        Object::from(Service { metadata, ..Default::default() })
    }

    fn said(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Put(object, _) => format!("put {}", object.key().name),
                Change::Delete(key) => format!("delete {}", key.name),
            })
            .collect()
    }

    #[test]
    fn a_list_deletes_what_it_no_longer_holds() {
        let mut relist = Relist::default();
        relist.begin();
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["put a", "put b"]);
        relist.put(service("c"));
        relist.delete(&service("a").key());
        relist.begin();
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["delete c", "put b"]);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut relist = Relist::default();
        relist.begin();
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        relist.finish();
        relist.begin();
        relist.buffer(service("a"));
        // The connection breaks; the next list begins.
        relist.begin();
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["put a", "put b"]);
    }
}
