//! Arrays, maps and strings with values in them.

use rhai::{Array, Dynamic, EvalAltResult, Expr, Ident, Identifier, Map, Position};

use super::frame::{Frame, Lowering};
use super::island::{Island, VALUE_COST, operand_value};
use super::node::{Node, Operand};
use super::vm::{Code, Flow, Raised, Step, Vm};

/// What Rhai counts against its limits of size: items of arrays, names of maps, bytes of strings.
#[derive(Clone, Copy, Default)]
struct Sizes {
    items: usize,
    names: usize,
    bytes: usize,
}

impl Sizes {
    fn of(value: &Dynamic) -> Self {
        if let Ok(array) = value.as_array_ref() {
            return Self::of_array(&array);
        }
        if let Ok(map) = value.as_map_ref() {
            return Self::of_map(&map);
        }
        Self {
            items: value.as_blob_ref().map_or(0, |blob| blob.len()),
            names: 0,
            bytes: value.as_immutable_string_ref().map_or(0, |text| text.len()),
        }
    }

    fn of_array(array: &Array) -> Self {
        array.iter().map(Self::of_part).fold(Self::default(), |sizes, mut part| {
            part.items += 1;
            sizes.and(part)
        })
    }

    fn of_map(map: &Map) -> Self {
        map.values().map(Self::of_part).fold(Self::default(), |sizes, mut part| {
            part.names += 1;
            sizes.and(part)
        })
    }

    /// Inside of another value a blob counts once more.
    fn of_part(value: &Dynamic) -> Self {
        let mut sizes = Self::of(value);
        sizes.items += usize::from(value.is_blob());
        sizes
    }

    fn and(self, more: Self) -> Self {
        Self {
            items: self.items + more.items,
            names: self.names + more.names,
            bytes: self.bytes + more.bytes,
        }
    }

    /// As `Engine::throw_on_size`, in its order.
    fn check(self, vm: &Vm<'_>, position: Position) -> Result<(), Raised> {
        let engine = vm.engine;
        let above = |size: usize, most: usize| most > 0 && size > most;
        let what = if above(self.bytes, engine.max_string_size()) {
            "Length of string"
        } else if above(self.items, engine.max_array_size()) {
            "Size of array/BLOB"
        } else if above(self.names, engine.max_map_size()) {
            "Size of object map"
        } else {
            return Ok(());
        };
        Err(EvalAltResult::ErrorDataTooLarge(what.into(), position).into())
    }
}

impl Frame<'_> {
    pub fn array(&mut self, items: &[Expr]) -> Lowering<Node> {
        let mut parts: Vec<(Code<Dynamic>, Position)> = Vec::with_capacity(items.len());
        for item in items {
            parts.push((self.expr(item)?.into_value(), item.position()));
        }
        Ok(Node::value(move |vm| {
            let mut array = Array::with_capacity(parts.len());
            let mut sizes = Sizes::default();
            for (part, position) in &parts {
                let value = part(vm)?;
                sizes = sizes.and(Sizes { items: 1, ..Sizes::default() }).and(Sizes::of(&value));
                sizes.check(vm, *position)?;
                array.push(value);
            }
            Ok(Dynamic::from_array(array))
        }))
    }

    pub fn map(&mut self, fields: &[(Ident, Expr)], template: &Map) -> Lowering<Node> {
        let mut parts: Vec<(Identifier, Code<Dynamic>, Position)> = Vec::new();
        for (name, value) in fields {
            let code = self.expr(value)?.into_value();
            parts.push((name.name.as_str().into(), code, value.position()));
        }
        let template = template.clone();
        Ok(Node::value(move |vm| {
            let mut map = template.clone();
            let mut sizes = Sizes::default();
            for (name, part, position) in &parts {
                let value = part(vm)?;
                sizes = sizes.and(Sizes { names: 1, ..Sizes::default() }).and(Sizes::of(&value));
                sizes.check(vm, *position)?;
                map.insert(name.clone(), value);
            }
            Ok(Dynamic::from_map(map))
        }))
    }

    pub fn interpolation(&mut self, parts: &[Expr]) -> Lowering<Node> {
        let most_bytes = self.most_bytes();
        let mut lowered = Vec::with_capacity(parts.len());
        for part in parts {
            let position = part.position();
            let value = Operand::of(self.expr(part)?);
            let shown = [operand_value(0, position)].into_iter().collect();
            // The string and the operand.
            let shown = Island::of(Expr::InterpolatedString(shown, position), 1 + VALUE_COST);
            lowered.push(Part { value, position, shown });
        }
        Ok(Node::value(move |vm| {
            let mut text = String::new();
            for part in &lowered {
                part.append(vm, &mut text)?;
                if text.len() > most_bytes {
                    let what = "Length of string".to_owned();
                    let error = EvalAltResult::ErrorDataTooLarge(what, part.position);
                    return Err(Flow::Raised(error.into()));
                }
            }
            Ok(text.into())
        }))
    }
}

/// One part of a string.
struct Part {
    value: Operand,
    position: Position,
    /// The string of this part alone, as Rhai writes it.
    shown: Island,
}

impl Part {
    fn append(&self, vm: &mut Vm<'_>, text: &mut String) -> Step<()> {
        if let Operand::Constant(value) = &self.value
            && append(value, text)
        {
            return Ok(());
        }
        if let Operand::Local(slot) = self.value
            && append(vm.slot(slot), text)
        {
            return Ok(());
        }
        let mut value = self.value.get(vm)?;
        if append(&value, text) {
            return Ok(());
        }
        if let (Ok(value), _) | (_, Ok(value)) = (whole(&value), truth(&value)) {
            // Rhai calls a function for it.
            vm.burn(1, self.position)?;
            text.push_str(&value);
            return Ok(());
        }
        let shown = self.shown.run(vm, &mut [&mut value])?;
        append(&shown, text);
        Ok(())
    }
}

/// Adds a string, if it is one.
fn append(value: &Dynamic, text: &mut String) -> bool {
    let value = value.as_immutable_string_ref();
    value.map(|value| text.push_str(&value)).is_ok()
}

fn whole(value: &Dynamic) -> Result<String, &'static str> {
    value.as_int().map(|value| value.to_string())
}

fn truth(value: &Dynamic) -> Result<String, &'static str> {
    value.as_bool().map(|value| value.to_string())
}
