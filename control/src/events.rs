//! Events on refused objects, so that `kubectl describe` tells their owners what is wrong and what to do. Few and each
//! once: an object that stays refused for the same reason is told of once, and so many at most in a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};

use crate::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::model::{Key, Kind, Refusal, Source};
use crate::shared::Shared;

/// Refusals are looked through so often.
const EVERY: Duration = Duration::from_secs(5);
/// So many Events each time; the others wait their turn.
const AT_ONCE: usize = 5;
/// The API's bound for a note, bytes.
const NOTE_BYTES: usize = 1024;

/// Tells of refused objects of the API server until the runtime ends.
pub async fn tell(client: Client, node: String, shared: Arc<Shared>) {
    let reporter = Reporter { controller: "atalho".into(), instance: Some(node) };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut told = Told::default();
    let mut is_forbidden = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let due = told.due(&shared.lock().refusals);
        for refusal in due {
            match publish(&client, &recorder, &refusal).await {
                Ok(()) => is_forbidden = false,
                Err(error) => {
                    // Refusals stay in the status, whoever may not write Events.
                    if !std::mem::replace(&mut is_forbidden, true) {
                        tracing::warn!(
                            "writing an Event about {}: {error}; grant create and patch on events.events.k8s.io by a ClusterRole",
                            refusal.object
                        );
                    }
                    break;
                }
            }
            told.told(&refusal);
        }
    }
}

/// What Events exist of. Never more than what is refused at the time.
#[derive(Debug, Default)]
struct Told(BTreeSet<(String, String)>);

impl Told {
    /// The next refusals to tell of; forgets what is refused no longer.
    fn due(&mut self, refusals: &[Refusal]) -> Vec<Refusal> {
        let still: BTreeSet<(&str, &str)> = refusals.iter().map(|r| (r.object.as_str(), r.reason.as_str())).collect();
        self.0.retain(|(object, reason)| still.contains(&(object, reason)));
        let is_new = |refusal: &&Refusal| !self.0.contains(&(refusal.object.clone(), refusal.reason.clone()));
        refusals.iter().filter(|refusal| refusal.source == Source::Api).filter(is_new).take(AT_ONCE).cloned().collect()
    }

    fn told(&mut self, refusal: &Refusal) {
        self.0.insert((refusal.object.clone(), refusal.reason.clone()));
    }
}

async fn publish(client: &Client, recorder: &Recorder, refusal: &Refusal) -> Result<(), kube::Error> {
    let Some(key) = Key::parse(&refusal.object) else { return Ok(()) };
    let resource = resource(key.kind);
    let api: Api<DynamicObject> = match key.kind.is_namespaced() {
        true => Api::namespaced_with(client.clone(), &key.namespace, &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    // `kubectl describe` looks for Events by the object's uid.
    let uid = match api.get_metadata(&key.name).await {
        Ok(object) => object.metadata.uid,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error),
    };
    let reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        name: Some(key.name),
        namespace: Some(key.namespace).filter(|namespace| !namespace.is_empty()),
        uid,
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "Refused".into(),
        note: Some(note(refusal)),
        action: "Compile".into(),
        secondary: None,
    };
    recorder.publish(&event, &reference).await
}

fn note(refusal: &Refusal) -> String {
    let mut note = format!("{}; {}", refusal.reason, refusal.next_step);
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    note
}

fn resource(kind: Kind) -> ApiResource {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    match kind {
        Kind::Service => of::<Service>(),
        Kind::EndpointSlice => of::<EndpointSlice>(),
        Kind::Pod => of::<Pod>(),
        Kind::Node => of::<Node>(),
        Kind::ServiceCidr => of::<ServiceCidr>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(object: &str, reason: &str, source: Source) -> Refusal {
        Refusal { object: object.into(), source, reason: reason.into(), next_step: "give it another".into() }
    }

    #[test]
    fn each_refusal_is_told_of_once_and_few_at_a_time() {
        let refusals: Vec<Refusal> =
            (0..7).map(|n| refusal(&format!("Service default/s{n}"), "port 0", Source::Api)).collect();
        let mut told = Told::default();
        let first = told.due(&refusals);
        assert_eq!(first, refusals[..AT_ONCE]);
        first.iter().for_each(|refusal| told.told(refusal));
        let second = told.due(&refusals);
        assert_eq!(second, refusals[AT_ONCE..]);
        second.iter().for_each(|refusal| told.told(refusal));
        assert!(told.due(&refusals).is_empty());
        // Put right and wrong again: that is news.
        assert!(told.due(&refusals[1..]).is_empty());
        assert_eq!(told.due(&refusals), refusals[..1]);
        // So is another reason.
        let other = refusal("Service default/s1", "port 70000", Source::Api);
        assert_eq!(told.due(std::slice::from_ref(&other)), [other]);
    }

    #[test]
    fn only_objects_of_the_api_server_can_have_events() {
        let file = Source::File { path: "a.yaml".into(), line: 1 };
        assert!(Told::default().due(&[refusal("Service default/web", "port 0", file)]).is_empty());
    }

    #[test]
    fn an_object_is_found_by_what_a_refusal_calls_it() {
        for key in [
            Key { kind: Kind::EndpointSlice, namespace: "shop".into(), name: "web-1".into() },
            Key { kind: Kind::Node, namespace: String::new(), name: "node-a".into() },
        ] {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
        for text in ["Gadget default/web", "Service web", "Node a/b", "configuration"] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_note_is_as_long_as_the_api_lets_it_be() {
        let long = refusal("Service default/web", &"ä".repeat(2000), Source::Api);
        assert!(note(&long).len() <= NOTE_BYTES && note(&long).len() > NOTE_BYTES - 2);
        assert_eq!(note(&refusal("", "port 0", Source::Api)), "port 0; give it another");
    }
}
