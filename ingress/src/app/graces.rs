//! TLSContexts that were deleted: delete-and-create is how many tools change an object, so the last one stays in use for a
//! while. The material that it names has a grace of its own in the keyring.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use resource::{Document, ObjectRef, Origin, Set};

use crate::{
    keyring::DELETION_GRACE,
    report::{Finding, Severity},
};

/// Every context that is there, and those whose grace runs.
#[derive(Debug, Default)]
pub(super) struct Graces {
    contexts: BTreeMap<ObjectRef, Kept>,
}

#[derive(Debug)]
struct Kept {
    document: Arc<Document>,
    gone_since: Option<SystemTime>,
}

impl Kept {
    fn is_over(&self, now: SystemTime) -> bool {
        self.gone_since.is_some_and(|since| now.duration_since(since).unwrap_or_default() >= DELETION_GRACE)
    }
}

impl Graces {
    /// The documents with deleted contexts still among them, and a finding about each of these.
    pub(super) fn apply(&mut self, set: Arc<Set>, now: SystemTime) -> (Arc<Set>, Vec<Finding>) {
        let mut present = BTreeMap::new();
        for document in set.documents.iter().filter(|document| is_context(&document.object)) {
            // Of two with one name the first counts, as in compile.
            present.entry(document.object.clone()).or_insert_with(|| Arc::clone(document));
        }
        // A context that went to another namespace is not deleted: there, a Mapping finds it by its name alone.
        let moved = |gone: &ObjectRef| present.keys().any(|object| object.name == gone.name);
        self.contexts.retain(|object, kept| {
            if present.contains_key(object) {
                kept.gone_since = None;
                return true;
            }
            kept.gone_since.get_or_insert(now);
            !kept.is_over(now) && !moved(object)
        });
        let gone = self.contexts.values().filter(|kept| kept.gone_since.is_some());
        let gone: Vec<_> = gone.map(|kept| Arc::clone(&kept.document)).collect();
        for (object, document) in present {
            self.contexts.insert(object, Kept { document, gone_since: None });
        }
        if gone.is_empty() {
            return (set, Vec::new());
        }
        let findings = gone.iter().map(|document| finding(document)).collect();
        let documents = set.documents.iter().chain(&gone).cloned().collect();
        (Arc::new(Set { documents, errors: set.errors.clone() }), findings)
    }

    /// Whether a grace has ended since it was applied.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.contexts.values().any(|kept| kept.is_over(now))
    }
}

fn is_context(object: &ObjectRef) -> bool {
    &*object.kind.kind == "TLSContext" && &*object.kind.group == "getambassador.io"
}

fn finding(document: &Document) -> Finding {
    let line = match document.origin {
        Origin::File { line, .. } => line,
        Origin::Cluster => 0,
    };
    Finding {
        origin: document.origin.clone(),
        line,
        object: Some(document.object.clone()),
        field: String::new(),
        severity: Severity::Warning,
        code: "tls_context_missing",
        message: format!("was deleted, and stays in use for {} s", DELETION_GRACE.as_secs()),
        remedy: "make it again, or take it out of the Mappings and Hosts that name it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::*;

    fn set(names: &[(&str, &str)]) -> Arc<Set> {
        let context = |(namespace, name): &(&str, &str)| {
            format!(
                "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
            )
        };
        let text: Vec<_> = names.iter().map(context).collect();
        let (documents, errors) =
            resource::parse(&Arc::new(PathBuf::from("a.yaml")), &text.concat(), "default").expect("YAML");
        Arc::new(Set { documents: documents.into_iter().map(Arc::new).collect(), errors })
    }

    /// What is in use, and how many findings there are.
    fn applied(graces: &mut Graces, present: &[(&str, &str)], now: SystemTime) -> (Vec<String>, usize) {
        let (set, findings) = graces.apply(set(present), now);
        let name =
            |document: &Arc<Document>| format!("{}/{}", document.object.namespace, document.object.name);
        (set.documents.iter().map(name).collect(), findings.len())
    }

    #[test]
    fn a_deleted_context_stays_until_its_grace_is_over_and_is_named() {
        let (mut graces, start) = (Graces::default(), SystemTime::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let both = [("default", "a"), ("default", "b")];
        let one = [("default", "b")];
        let kept = vec!["default/b".to_owned(), "default/a".to_owned()];
        assert_eq!(applied(&mut graces, &both, start).1, 0);
        assert_eq!(applied(&mut graces, &one, at(1)), (kept.clone(), 1));
        assert_eq!(applied(&mut graces, &one, at(60)), (kept, 1));
        assert!(!graces.is_over(at(60)));
        assert!(graces.is_over(at(61)));
        assert_eq!(applied(&mut graces, &one, at(61)), (vec!["default/b".to_owned()], 0));
        assert!(!graces.is_over(at(1000)), "it is forgotten");
    }

    #[test]
    fn one_that_is_made_again_counts_and_so_does_one_that_went_elsewhere() {
        let (mut graces, start) = (Graces::default(), SystemTime::now());
        let a = [("default", "a")];
        assert_eq!(applied(&mut graces, &a, start).1, 0);
        assert_eq!(applied(&mut graces, &[], start).1, 1);
        assert_eq!(applied(&mut graces, &a, start), (vec!["default/a".to_owned()], 0));
        let later = start + Duration::from_hours(1);
        assert_eq!(applied(&mut graces, &[], later).1, 1, "its grace begins anew");
        assert_eq!(applied(&mut graces, &[("shop", "a")], later), (vec!["shop/a".to_owned()], 0));
    }
}
