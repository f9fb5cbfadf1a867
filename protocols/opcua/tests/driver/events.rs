//! Events: named, filtered, there again after the server was away.

use fieldgate_protocol::{Event, Update, Value};
use tempfile::tempdir;

use crate::rig::{NONE, Rig, config, simulator};

fn field<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

impl Rig {
    /// The fields of the next event.
    async fn event(&mut self) -> Vec<(String, Value)> {
        self.expect("an event", |update| match update {
            Update::Events { events, .. } => {
                assert_eq!(events.len(), 1, "{events:?}");
                match &events[0] {
                    Event::Happened { fields, source_time, refresh, .. } => {
                        assert!(source_time.is_some() && !refresh, "{events:?}");
                        Some(fields.clone())
                    }
                    Event::Lost { .. } => panic!("{events:?}"),
                }
            }
            _ => None,
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_severe_enough_come_with_names_and_again_after_the_servers_return() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = [("level", "level", "[[opcua.device.event]]\nmin_severity = 500\n")];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, &points), dir.path());
    rig.value("level", 50.0).await;
    sim.raise("warm", 499);
    sim.raise("too hot", 700);
    let told = rig.event().await;
    assert_eq!(field(&told, "Message"), Some(&text("too hot")), "{told:?}");
    assert_eq!(field(&told, "EventId"), Some(&text("dG9vIGhvdA==")));
    assert_eq!(field(&told, "EventType"), Some(&text("BaseEventType")));
    assert_eq!(field(&told, "SourceName"), Some(&text("sim")));
    assert_eq!(field(&told, "Severity"), Some(&Value::Uint(700)));
    assert_eq!(field(&told, "ActiveState"), None, "it is no alarm");

    sim.stop();
    rig.offline().await;
    sim.restart().unwrap();
    rig.online().await;
    sim.raise("too hot again", 500);
    assert_eq!(field(&rig.event().await, "Message"), Some(&text("too hot again")));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_the_server_does_not_know_is_said_and_disturbs_no_other() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let event = "[[opcua.device.event]]\ntypes = [\"i=2130\"]\nfields = [\"/Nothing\"]\n[[opcua.device.event]]\nnode = \"ns=7;i=7\"\n";
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, &[("level", "level", event)]), dir.path());
    rig.value("level", 50.0).await;
    let mut info = rig.info.clone();
    let said = tokio::time::timeout(crate::rig::DEADLINE, info.wait_for(|info| !info.notes.is_empty())).await;
    let Ok(said) = said else { panic!("{:?}", rig.info.borrow()) };
    let notes: Vec<String> =
        said.unwrap().notes.iter().filter(|note| note.contains("the events of")).cloned().collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("does not know the field `Nothing`"), "{notes:?}");
    assert!(notes[1].contains("`ns=7;i=7` can't be had: BadNodeIdUnknown"), "{notes:?}");
    // Not of the type that is wanted.
    sim.raise("too hot", 700);
    sim.raise_system("disk full", 700);
    let told = rig.event().await;
    assert_eq!(field(&told, "EventType"), Some(&text("SystemEventType")), "{told:?}");
    assert_eq!(field(&told, "Message"), Some(&text("disk full")), "{told:?}");
    assert_eq!(field(&told, "Severity"), Some(&Value::Uint(700)));
    rig.stop().await;
}
