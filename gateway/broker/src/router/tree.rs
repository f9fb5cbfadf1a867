//! Subscriptions in a tree of topic levels: finding the receivers of a message costs the depth of its topic, not
//! the number of sessions. Pure; generic over what a subscriber is.

use std::collections::HashMap;

/// A tree of filters.
#[derive(Debug)]
pub(crate) struct Tree<S> {
    root: Node<S>,
    count: usize,
}

#[derive(Debug)]
struct Node<S> {
    exact: HashMap<Box<str>, Node<S>>,
    /// The level `+`.
    any: Option<Box<Node<S>>>,
    /// Filters that end here.
    here: Ends<S>,
    /// Filters that end here with `/#`.
    below: Ends<S>,
}

#[derive(Debug)]
struct Ends<S> {
    plain: Vec<(u64, S)>,
    shared: Vec<Group<S>>,
}

#[derive(Debug)]
struct Group<S> {
    name: Box<str>,
    members: Vec<(u64, S)>,
}

/// A filter that matches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Match<'a, S> {
    /// One subscriber: key and value.
    Plain(u64, &'a S),
    /// A group, of which one member gets the message.
    Shared(&'a [(u64, S)]),
}

impl<S> Default for Tree<S> {
    fn default() -> Self {
        Self { root: Node::default(), count: 0 }
    }
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { exact: HashMap::new(), any: None, here: Ends::default(), below: Ends::default() }
    }
}

impl<S> Default for Ends<S> {
    fn default() -> Self {
        Self { plain: Vec::new(), shared: Vec::new() }
    }
}

impl<S> Tree<S> {
    /// Number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds the subscription of `key` to a valid filter (without its `$share/group/`). True when it is new, false
    /// when it replaced an older one.
    pub(crate) fn insert(&mut self, filter: &str, group: Option<&str>, key: u64, subscriber: S) -> bool {
        let mut node = &mut self.root;
        let mut below = false;
        for level in filter.split('/') {
            match level {
                "#" => below = true,
                "+" => node = node.any.get_or_insert_default(),
                level => {
                    if !node.exact.contains_key(level) {
                        node.exact.insert(level.into(), Node::default());
                    }
                    match node.exact.get_mut(level) {
                        Some(child) => node = child,
                        None => return false,
                    }
                }
            }
        }
        let ends = if below { &mut node.below } else { &mut node.here };
        let new = ends.insert(group, key, subscriber);
        self.count += usize::from(new);
        new
    }

    /// Removes the subscription of `key`; whether there was one. Levels that hold nothing more are freed.
    pub(crate) fn remove(&mut self, filter: &str, group: Option<&str>, key: u64) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        let removed = self.root.remove(&levels, group, key);
        self.count -= usize::from(removed);
        removed
    }

    /// Calls `found` for every filter that matches the topic name.
    pub(crate) fn matches<'a>(&'a self, name: &str, mut found: impl FnMut(Match<'a, S>)) {
        // [MQTT-4.7.2-1]: wildcards at the first level don't match names that begin with `$`.
        self.root.matches(Some(name), name.starts_with('$'), &mut found);
    }
}

impl<S> Ends<S> {
    fn insert(&mut self, group: Option<&str>, key: u64, subscriber: S) -> bool {
        let members = match group {
            None => &mut self.plain,
            Some(name) => {
                let index = if let Some(index) = self.shared.iter().position(|group| &*group.name == name) {
                    index
                } else {
                    self.shared.push(Group { name: name.into(), members: Vec::new() });
                    self.shared.len() - 1
                };
                match self.shared.get_mut(index) {
                    Some(group) => &mut group.members,
                    None => return false,
                }
            }
        };
        if let Some((_, old)) = members.iter_mut().find(|(of, _)| *of == key) {
            *old = subscriber;
            false
        } else {
            members.push((key, subscriber));
            true
        }
    }

    fn remove(&mut self, group: Option<&str>, key: u64) -> bool {
        let Some(name) = group else { return remove(&mut self.plain, key) };
        let Some(index) = self.shared.iter().position(|group| &*group.name == name) else { return false };
        let Some(group) = self.shared.get_mut(index) else { return false };
        let removed = remove(&mut group.members, key);
        if group.members.is_empty() {
            self.shared.swap_remove(index);
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.shared.is_empty()
    }

    fn report<'a>(&'a self, found: &mut impl FnMut(Match<'a, S>)) {
        for (key, subscriber) in &self.plain {
            found(Match::Plain(*key, subscriber));
        }
        for group in &self.shared {
            found(Match::Shared(&group.members));
        }
    }
}

fn remove<S>(members: &mut Vec<(u64, S)>, key: u64) -> bool {
    let Some(index) = members.iter().position(|(of, _)| *of == key) else { return false };
    members.swap_remove(index);
    if members.is_empty() {
        members.shrink_to_fit();
    }
    true
}

impl<S> Node<S> {
    fn remove(&mut self, levels: &[&str], group: Option<&str>, key: u64) -> bool {
        let Some((level, rest)) = levels.split_first() else { return self.here.remove(group, key) };
        match *level {
            "#" => self.below.remove(group, key),
            "+" => {
                let Some(child) = &mut self.any else { return false };
                let removed = child.remove(rest, group, key);
                if child.is_empty() {
                    self.any = None;
                }
                removed
            }
            level => {
                let Some(child) = self.exact.get_mut(level) else { return false };
                let removed = child.remove(rest, group, key);
                if child.is_empty() {
                    self.exact.remove(level);
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    /// `name` is what is left of the topic, `None` behind its last level. The depth of the recursion is the
    /// depth of the tree, which the limit of levels per filter bounds.
    fn matches<'a>(&'a self, name: Option<&str>, hidden: bool, found: &mut impl FnMut(Match<'a, S>)) {
        if !hidden {
            // `a/#` matches `a` too [MQTT 5, 4.7.1.2].
            self.below.report(found);
        }
        let Some(name) = name else {
            self.here.report(found);
            return;
        };
        let (level, rest) = match name.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (name, None),
        };
        if let Some(child) = self.exact.get(level) {
            child.matches(rest, false, found);
        }
        if let Some(child) = self.any.as_ref().filter(|_| !hidden) {
            child.matches(rest, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::topic;

    fn found(tree: &Tree<()>, name: &str) -> BTreeSet<u64> {
        let mut keys = BTreeSet::new();
        tree.matches(name, |found| match found {
            Match::Plain(key, ()) => assert!(keys.insert(key) || key > 1000, "one filter reported twice"),
            Match::Shared(members) => keys.extend(members.iter().map(|(key, ())| *key)),
        });
        keys
    }

    #[test]
    fn finds_wildcards_and_hides_dollar_topics() {
        let mut tree = Tree::default();
        for (key, filter) in ["#", "+/b", "a/#", "a/b", "$s/#", "+", "a/+/c", "/"].iter().enumerate() {
            assert!(tree.insert(filter, None, key as u64, ()));
        }
        assert_eq!(found(&tree, "a/b"), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(found(&tree, "a"), BTreeSet::from([0, 2, 5]));
        assert_eq!(found(&tree, "$s/b"), BTreeSet::from([4]));
        assert_eq!(found(&tree, "$s"), BTreeSet::from([4]));
        assert_eq!(found(&tree, "a/x/c"), BTreeSet::from([0, 2, 6]));
        assert_eq!(found(&tree, "/"), BTreeSet::from([0, 7]));
    }

    #[test]
    fn replaces_and_removes_and_frees_levels() {
        let mut tree = Tree::default();
        assert!(tree.insert("a/b/c", None, 1, ()));
        assert!(!tree.insert("a/b/c", None, 1, ()));
        assert!(tree.insert("a/b/c", Some("g"), 1, ()));
        assert_eq!(tree.len(), 2);
        assert!(!tree.remove("a/b", None, 1));
        assert!(tree.remove("a/b/c", None, 1));
        assert!(!tree.remove("a/b/c", None, 1));
        assert!(tree.remove("a/b/c", Some("g"), 1));
        assert_eq!(tree.len(), 0);
        assert!(tree.root.is_empty());
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b"), Just(""), Just("$s"), Just("c")].prop_map(str::to_owned)
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/")).prop_filter("empty", |n| !n.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash || levels.is_empty() {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
            .prop_filter("empty", |f| !f.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]
        #[test]
        fn agrees_with_a_naive_matcher(
            operations in prop::collection::vec((filter(), 0..4_u64, any::<bool>()), 1..40),
            names in prop::collection::vec(name(), 1..10),
        ) {
            let mut tree = Tree::default();
            let mut model: BTreeSet<(String, u64)> = BTreeSet::new();
            for (filter, key, add) in operations {
                prop_assert_eq!(topic::check_filter(&filter), Ok(()));
                if add {
                    prop_assert_eq!(tree.insert(&filter, None, key, ()), model.insert((filter, key)));
                } else {
                    prop_assert_eq!(tree.remove(&filter, None, key), model.remove(&(filter, key)));
                }
            }
            prop_assert_eq!(tree.len(), model.len());
            for name in names {
                let mut expected: Vec<u64> =
                    model.iter().filter(|(filter, _)| topic::matches(filter, &name)).map(|(_, key)| *key).collect();
                let mut actual = Vec::new();
                tree.matches(&name, |found| match found {
                    Match::Plain(key, ()) => actual.push(key),
                    Match::Shared(_) => {}
                });
                expected.sort_unstable();
                actual.sort_unstable();
                prop_assert_eq!(actual, expected, "{}", name);
            }
        }
    }
}
