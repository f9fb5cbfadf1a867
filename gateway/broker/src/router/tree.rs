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
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::topic;
    use crate::topic::tests::naive;

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

    /// xorshift64*: the same cases on every machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % most
        }

        fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
            all[self.below(all.len())]
        }

        fn levels(&mut self, alphabet: &[&'static str]) -> Vec<&'static str> {
            (0..=self.below(5)).map(|_| self.one_of(alphabet)).collect()
        }

        fn name(&mut self) -> String {
            let name = self.levels(&["a", "b", "aa", "", "$s", "x"]).join("/");
            if name.is_empty() { "/".to_owned() } else { name }
        }

        fn filter(&mut self) -> String {
            let mut levels = self.levels(&["a", "b", "aa", "", "$s", "+", "+"]);
            match self.below(4) {
                0 => levels.push("#"),
                1 => *levels.last_mut().unwrap() = "#",
                _ => {}
            }
            let filter = levels.join("/");
            if filter.is_empty() { "+".to_owned() } else { filter }
        }
    }

    /// Plain subscribers of a name, and the members of each group.
    type Found = (Vec<(u64, u32)>, Vec<Vec<(u64, u32)>>);
    type Model = BTreeMap<(String, Option<&'static str>, u64), u32>;

    /// What the naive matcher finds in the model: plain subscriptions, and the members of each group.
    fn expected(model: &Model, name: &str) -> Found {
        let mut plain = Vec::new();
        let mut groups: BTreeMap<(&str, &str), Vec<(u64, u32)>> = BTreeMap::new();
        for ((filter, group, key), serial) in model.iter().filter(|((filter, ..), _)| naive(filter, name)) {
            match group {
                None => plain.push((*key, *serial)),
                Some(group) => groups.entry((filter, group)).or_default().push((*key, *serial)),
            }
        }
        (plain, groups.into_values().collect())
    }

    fn actual(tree: &Tree<u32>, name: &str) -> Found {
        let (mut plain, mut groups) = (Vec::new(), Vec::new());
        tree.matches(name, |found| match found {
            Match::Plain(key, serial) => plain.push((key, *serial)),
            Match::Shared(members) => groups.push(members.to_vec()),
        });
        (plain, groups)
    }

    /// One case: a subscription comes, is replaced or goes, and then one name is looked up. 20,000 of them, or as many
    /// as `FIELDGATE_TREE_CASES` says; a million take a minute:
    /// `FIELDGATE_TREE_CASES=1000000 cargo test -p fieldgate-broker --lib agrees_with_a_naive_matcher`.
    #[test]
    fn agrees_with_a_naive_matcher() {
        let cases = std::env::var("FIELDGATE_TREE_CASES").map_or(20_000, |number| number.parse().unwrap());
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut tree = Tree::default();
        let mut model = Model::new();
        let mut found = 0_u64;
        for case in 0..cases {
            let filter = random.filter();
            assert_eq!(topic::check_filter(&filter), Ok(()), "{filter}");
            let group = random.one_of(&[None, None, Some("g"), Some("h"), Some("a")]);
            let key = random.below(4) as u64;
            // Grows to some 60 subscriptions and shrinks again, to nothing now and then.
            let shrinking = case % 400 >= 200;
            if shrinking && random.below(8) > 0 && !model.is_empty() {
                let (filter, group, key) = model.keys().nth(random.below(model.len())).unwrap().clone();
                model.remove(&(filter.clone(), group, key));
                assert!(tree.remove(&filter, group, key), "{filter} {group:?} {key}");
            } else if shrinking {
                let there = model.remove(&(filter.clone(), group, key)).is_some();
                assert_eq!(tree.remove(&filter, group, key), there, "{filter} {group:?} {key}");
            } else {
                let new = model.insert((filter.clone(), group, key), case).is_none();
                assert_eq!(tree.insert(&filter, group, key, case), new, "{filter} {group:?} {key}");
            }
            if model.len() > 60 {
                let (filter, group, key) = model.keys().nth(random.below(model.len())).unwrap().clone();
                model.remove(&(filter.clone(), group, key));
                assert!(tree.remove(&filter, group, key));
            }
            assert_eq!(tree.len(), model.len());
            assert_eq!(tree.root.is_empty(), model.is_empty(), "levels are freed");
            let name = random.name();
            let sorted = |(mut plain, mut groups): Found| {
                plain.sort_unstable();
                for members in &mut groups {
                    members.sort_unstable();
                }
                groups.sort_unstable();
                (plain, groups)
            };
            let (expected, actual) = (sorted(expected(&model, &name)), sorted(actual(&tree, &name)));
            found += (expected.0.len() + expected.1.len()) as u64;
            assert_eq!(actual, expected, "{name} in {model:?}");
        }
        assert!(found > u64::from(cases), "the names hit too little: {found}");
    }
}
