//! A re-list, buffered and swapped in when complete: what the list no longer holds was deleted while we did not look.

use std::collections::{BTreeMap, HashSet};

use crate::model::{Change, Key, Object, Source};

/// The keys that one watch has handed over, and the list that is coming in.
#[derive(Debug, Default)]
pub struct Relist {
    known: HashSet<Key>,
    /// By key: objects may change and go while they are listed.
    coming: BTreeMap<Key, Object>,
}

impl Relist {
    /// What has come of a list that is not complete counts for nothing.
    pub fn break_off(&mut self) {
        self.coming.clear();
    }

    /// An object of the list, or its change.
    pub fn buffer(&mut self, object: Object) {
        self.coming.insert(object.key(), object);
    }

    /// An object of the list has been deleted.
    pub fn forget(&mut self, key: &Key) {
        self.coming.remove(key);
    }

    /// The list is complete: what it deletes, then what it holds.
    pub fn finish(&mut self) -> Vec<Change> {
        let coming = std::mem::take(&mut self.coming);
        let mut gone: Vec<Key> = self.known.drain().filter(|key| !coming.contains_key(key)).collect();
        gone.sort();
        let mut changes: Vec<Change> = gone.into_iter().map(Change::Delete).collect();
        for (key, object) in coming {
            self.known.insert(key);
            changes.push(Change::Put(object, Source::Api));
        }
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
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["put a", "put b"]);
        relist.put(service("c"));
        relist.delete(&service("a").key());
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["delete c", "put b"]);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut relist = Relist::default();
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        relist.finish();
        relist.buffer(service("c"));
        relist.break_off();
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        assert_eq!(said(&relist.finish()), ["put a", "put b"]);
    }

    #[test]
    fn an_object_that_goes_while_it_is_listed_is_not_in_the_list() {
        let mut relist = Relist::default();
        relist.put(service("a"));
        relist.buffer(service("b"));
        relist.buffer(service("a"));
        relist.buffer(service("b"));
        relist.forget(&service("a").key());
        assert_eq!(said(&relist.finish()), ["delete a", "put b"]);
    }
}
