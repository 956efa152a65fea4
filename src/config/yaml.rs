//! YAML text to a tree in which every value knows its place. It says nothing about what keys mean.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::{Pos, Problems};

/// Nodes of one file, aliases expanded: ends alias bombs.
const MAX_NODES: usize = 2_000_000;
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Pos,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `from_env`: the environment gave a part of it, so it may be a secret.
    Scalar {
        text: String,
        quoted: bool,
        from_env: bool,
    },
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// A problem was told already; there is nothing more to say.
    Refused,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Pos,
    pub text: String,
}

impl Node {
    /// What a person would call it.
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar { text, quoted: false, .. } if is_null(text) => "nothing",
            Kind::Scalar { .. } => "a single value",
            Kind::Seq(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Refused => "what cannot be used",
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, quoted: false, .. } if is_null(text))
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The only document of `text`; syntax errors and repeated keys become problems.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    let mut builder =
        Builder { anchors: HashMap::new(), stack: Vec::new(), root: None, nodes: 0, problems };
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                let marker = error.marker();
                let at = Pos { line: marker.line(), column: marker.col() + 1 };
                Err((at, format!("not valid YAML: {}", error.info())))
            }
        };
        if let Err((at, message)) = outcome {
            builder.problems.add(at, "", message, None);
            return None;
        }
    }
    builder.root
}

/// A container that is still open.
struct Open {
    at: Pos,
    anchor: usize,
    items: Items,
}

enum Items {
    Seq(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, names: HashSet<String>, key: Option<Key> },
}

struct Builder<'p> {
    anchors: HashMap<usize, Node>,
    stack: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    problems: &'p mut Problems,
}

type Step = Result<(), (Pos, String)>;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Step {
        let at = Pos { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => Err((
                at,
                format!("tags such as !{} are not read: write the value alone", tag.suffix),
            )),
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                let kind = Kind::Scalar { text: text.into_owned(), quoted, from_env: false };
                self.done(Node { at, kind }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(at, anchor, Items::Seq(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(
                at,
                anchor,
                Items::Map { entries: Vec::new(), names: HashSet::new(), key: None },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Node { at, kind: node.kind.clone() };
                    self.nodes += count(&node);
                    self.done(node, 0)
                }
                None => Err((at, "an alias to an anchor that is not complete".into())),
            },
            Event::DocumentStart(_) if self.root.is_some() => {
                Err((at, "a second YAML document: one file holds one configuration".into()))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: Pos, anchor: usize, items: Items) -> Step {
        if self.stack.len() >= MAX_DEPTH {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.stack.push(Open { at, anchor, items });
        Ok(())
    }

    fn close(&mut self, at: Pos) -> Step {
        let Some(open) = self.stack.pop() else {
            return Err((at, "not valid YAML: an end without a beginning".into()));
        };
        let kind = match open.items {
            Items::Seq(nodes) => Kind::Seq(nodes),
            Items::Map { entries, .. } => Kind::Map(entries),
        };
        self.done(Node { at: open.at, kind }, open.anchor)
    }

    fn done(&mut self, node: Node, anchor: usize) -> Step {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((node.at, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(Items::Seq(nodes)) => nodes.push(node),
            Some(Items::Map { entries, names, key }) => match key.take() {
                Some(name) => entries.push((name, node)),
                None => {
                    let name = key_of(node)?;
                    if !names.insert(name.text.clone()) {
                        let message = format!("the key \"{}\" stands here twice", name.text);
                        self.problems.add(name.at, "", message, None);
                    }
                    *key = Some(name);
                }
            },
        }
        Ok(())
    }
}

fn key_of(node: Node) -> Result<Key, (Pos, String)> {
    match node.kind {
        Kind::Scalar { text, quoted: false, .. } if text == "<<" => {
            Err((node.at, "merge keys are not read: repeat a whole value by an alias".into()))
        }
        Kind::Scalar { text, .. } => Ok(Key { at: node.at, text }),
        _ => Err((node.at, "a key must be a single value".into())),
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Scalar { .. } | Kind::Refused => 0,
        Kind::Seq(nodes) => nodes.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| count(node)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems_of(text: &str) -> Vec<String> {
        let mut problems = Problems::new(Path::new("x.yaml"));
        parse(text, &mut problems);
        problems.into_sorted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_know_their_place() {
        let mut problems = Problems::new(Path::new("x.yaml"));
        let root = parse("a:\n  - b: 1\n", &mut problems).expect("valid");
        let Kind::Map(entries) = &root.kind else { panic!("{root:?}") };
        let Kind::Seq(items) = &entries[0].1.kind else { panic!("{root:?}") };
        assert_eq!(items[0].at, Pos { line: 2, column: 5 });
    }

    #[test]
    fn what_is_not_one_document_with_unique_keys_is_a_problem() {
        assert_eq!(problems_of("a: 1\na: 2\n"), ["x.yaml:2:1: the key \"a\" stands here twice"]);
        assert!(problems_of("a: [1\n")[0].contains("not valid YAML"));
        assert!(problems_of("a: 1\n---\nb: 2\n")[0].contains("second YAML document"));
        assert!(problems_of("a: !b 1\n")[0].contains("tags such as !b"));
        assert!(problems_of("a: &x { b: 1 }\nc: { <<: *x }\n")[0].contains("2:6: merge keys"));
    }

    #[test]
    fn an_alias_bomb_ends_at_the_limit() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let inner = vec![format!("*a{}", i - 1); 10].join(",");
            text.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
        }
        assert!(problems_of(&text)[0].contains("more than"), "{:?}", problems_of(&text));
    }
}
