//! Conditions of resources from files: there is no cluster to write them to, so `/config` shows them.

use parking_lot::Mutex;
use resource::{Condition, ObjectRef, StatusSink};
use serde_json::{Value, json};

/// What the last compile said of each resource.
#[derive(Debug, Default)]
pub(super) struct Conditions(Mutex<Vec<(ObjectRef, Vec<Condition>)>>);

impl StatusSink for Conditions {
    fn report(&self, conditions: Vec<(ObjectRef, Vec<Condition>)>) {
        *self.0.lock() = conditions;
    }
}

impl Conditions {
    /// In the form that a cluster's `status.conditions` has.
    pub(super) fn to_json(&self) -> Value {
        let row = |condition: &Condition| {
            json!({
                "type": condition.kind,
                "status": if condition.holds { "True" } else { "False" },
                "reason": &*condition.reason,
                "message": condition.message,
            })
        };
        let of = |(object, conditions): &(ObjectRef, Vec<Condition>)| {
            json!({
                "kind": &*object.kind.kind,
                "namespace": &*object.namespace,
                "name": &*object.name,
                "conditions": conditions.iter().map(row).collect::<Vec<_>>(),
            })
        };
        self.0.lock().iter().map(of).collect()
    }
}
