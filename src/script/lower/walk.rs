//! Chains of dots and brackets as they run: one link after the other, on a receiver that lies in
//! a variable, inside of another value, or nowhere else.
//!
//! After a change Rhai gives a part back to what it was read from, by a setter. Where there is
//! such a setter, Rhai walks the rest of the chain.

use std::ops::Range;

use rhai::{Dynamic, ImmutableString, Position};

use super::island::Island;
use super::native::{Few, Site, placed};
use super::node::Operand;
use super::stmt::changeable;
use super::vm::{Code, Step, Vm};
use crate::script::api;

pub enum Head {
    Local(usize),
    Value(Code<Dynamic>),
}

pub struct Chain {
    pub head: Head,
    pub arguments: Box<[Operand]>,
    pub links: Box<[Link]>,
}

pub struct Link {
    pub does: Does,
    pub is_careful: bool,
    pub position: Position,
    /// Of the `=`, in an assignment.
    pub set_at: Position,
    /// Which of the chain's arguments are this link's.
    pub arguments: Range<usize>,
    pub rest: Rest,
}

pub enum Does {
    Property {
        name: ImmutableString,
        getter: Site,
        has_setter: bool,
    },
    Method {
        name: ImmutableString,
        site: Site,
    },
    Index {
        getter: Site,
    },
    /// The last link of a chain that is assigned to; the value is the last argument.
    SetProperty {
        setter: Site,
    },
    SetIndex {
        setter: Site,
    },
    /// Only Rhai knows.
    Other,
}

/// This link and all after it, by Rhai.
pub struct Rest {
    /// The receiver is a variable or a part of one.
    pub by_reference: Island,
    pub by_value: Island,
}

/// A value, and whether the receiver may have changed.
type Walked = Step<(Dynamic, bool)>;

impl Chain {
    pub fn read(&self, vm: &mut Vm<'_>) -> Step<Dynamic> {
        let mut arguments = Few::new();
        for argument in &self.arguments {
            arguments.push(argument.get(vm)?);
        }
        let walk = Walk { links: &self.links };
        match &self.head {
            Head::Value(head) => {
                let mut receiver = head(vm)?;
                Ok(walk.from(vm, &mut receiver, false, &mut arguments)?.0)
            }
            Head::Local(slot) if vm.slot(*slot).is_shared() => {
                let mut receiver = vm.slot(*slot).clone();
                // Rhai locks what is captured.
                walk.by_rhai(vm, &mut receiver, true, &mut arguments)
            }
            Head::Local(slot) => {
                let mut receiver = std::mem::take(vm.slot_mut(*slot));
                let result = walk.from(vm, &mut receiver, true, &mut arguments);
                *vm.slot_mut(*slot) = receiver;
                Ok(result?.0)
            }
        }
    }
}

/// What is left of a chain.
#[derive(Clone, Copy)]
pub struct Walk<'c> {
    pub links: &'c [Link],
}

impl Walk<'_> {
    /// Walks on from `receiver`; `by_reference` tells that it lies in a variable.
    pub fn from(
        self,
        vm: &mut Vm<'_>,
        receiver: &mut Dynamic,
        by_reference: bool,
        arguments: &mut [Dynamic],
    ) -> Walked {
        let Some((link, rest)) = self.links.split_first() else {
            return Ok((std::mem::take(receiver), false));
        };
        if link.is_careful && receiver.is_unit() {
            return Ok((Dynamic::UNIT, false));
        }
        let rest = Walk { links: rest };
        match &link.does {
            Does::Property { name, getter, has_setter } => {
                if receiver.is_map() {
                    vm.burn(1, link.position)?;
                    return rest.into_map(vm, receiver, name, arguments);
                }
                if !rest.links.is_empty() && (*has_setter || !is_plain_handle(receiver)) {
                    return self.rest_by_rhai(vm, receiver, by_reference, arguments);
                }
                vm.burn(1, link.position)?;
                let (value, _) = getter.call(vm, &mut [&mut *receiver], by_reference)?;
                rest.part(vm, value, link.position, arguments)
            }
            Does::Method { name, site } => {
                if has_function(receiver, name) {
                    return self.rest_by_rhai(vm, receiver, by_reference, arguments);
                }
                vm.burn(1, link.position)?;
                let own = arguments[link.arguments.clone()].iter_mut();
                let mut all: Few<&mut Dynamic> = std::iter::once(receiver).chain(own).collect();
                let (mut value, changed) = site.call(vm, &mut all, by_reference)?;
                drop(all);
                if rest.links.is_empty() {
                    return Ok((value, changed));
                }
                rest.from(vm, &mut value, false, arguments)
            }
            Does::Index { getter } => self.index(vm, receiver, (by_reference, getter), arguments),
            Does::SetProperty { .. } | Does::SetIndex { .. } => {
                self.set(vm, receiver, by_reference, arguments)
            }
            Does::Other => self.rest_by_rhai(vm, receiver, by_reference, arguments),
        }
    }

    /// On from a part that was made for this, and that nobody takes back.
    fn part(
        self,
        vm: &mut Vm<'_>,
        mut part: Dynamic,
        position: Position,
        arguments: &mut [Dynamic],
    ) -> Walked {
        if self.links.is_empty() {
            return Ok((part, false));
        }
        let (value, changed) = self.from(vm, &mut part, true, arguments)?;
        if changed {
            // Rhai looks for two setters, in vain.
            vm.burn(2, position)?;
        }
        Ok((value, changed))
    }

    fn into_map(
        self,
        vm: &mut Vm<'_>,
        map: &mut Dynamic,
        name: &str,
        arguments: &mut [Dynamic],
    ) -> Walked {
        let mut nothing = Dynamic::UNIT;
        let Ok(mut map) = map.as_map_mut() else { return Ok((Dynamic::UNIT, false)) };
        match map.get_mut(name) {
            Some(value) if self.links.is_empty() => Ok((value.clone(), false)),
            Some(value) => self.from(vm, value, true, arguments),
            None => self.from(vm, &mut nothing, false, arguments),
        }
    }

    fn index(
        self,
        vm: &mut Vm<'_>,
        receiver: &mut Dynamic,
        (by_reference, getter): (bool, &Site),
        arguments: &mut [Dynamic],
    ) -> Walked {
        let (link, rest) = (&self.links[0], Walk { links: &self.links[1..] });
        let index = &mut arguments[link.arguments.start];
        if receiver.is_map()
            && let Ok(name) = index.as_immutable_string_ref().map(|name| name.clone())
        {
            vm.burn(1, link.position)?;
            return rest.into_map(vm, receiver, &name, arguments);
        }
        if let Some(place) = place_in(receiver, index) {
            vm.burn(1, link.position)?;
            let Ok(mut array) = receiver.as_array_mut() else {
                return Ok((Dynamic::UNIT, false));
            };
            let item = &mut array[place];
            if rest.links.is_empty() {
                return Ok((item.clone(), false));
            }
            return rest.from(vm, item, true, arguments);
        }
        let is_last = rest.links.is_empty();
        if receiver.is_variant() && (is_last || is_plain_handle(receiver)) {
            vm.burn(2, link.position)?;
            let (value, _) = getter.call(vm, &mut [&mut *receiver, index], true)?;
            if is_last {
                return Ok((value, false));
            }
            let mut value = value;
            let (value, changed) = rest.from(vm, &mut value, false, arguments)?;
            if changed {
                // Rhai looks for a setter, in vain.
                vm.burn(1, link.position)?;
            }
            return Ok((value, changed));
        }
        self.rest_by_rhai(vm, receiver, by_reference, arguments)
    }

    /// The end of an assignment.
    fn set(
        self,
        vm: &mut Vm<'_>,
        receiver: &mut Dynamic,
        by_reference: bool,
        arguments: &mut [Dynamic],
    ) -> Walked {
        let link = &self.links[0];
        let Some((value, before)) = arguments.split_last_mut() else {
            return Ok((Dynamic::UNIT, true));
        };
        match &link.does {
            Does::SetProperty { setter } if receiver.is_variant() => {
                vm.burn(1, link.position)?;
                let set = setter.call(vm, &mut [receiver, value], by_reference);
                return set.map(|_| (Dynamic::UNIT, true));
            }
            Does::SetIndex { setter } if receiver.is_variant() => {
                vm.burn(2, link.position)?;
                let index = &mut before[link.arguments.start];
                let set = setter.call(vm, &mut [receiver, index, value], by_reference);
                return set.map(|_| (Dynamic::UNIT, true));
            }
            Does::SetIndex { .. } => {
                let index = &before[link.arguments.start];
                let place = place_in(receiver, index);
                if let (Some(place), Ok(mut array)) = (place, receiver.as_array_mut())
                    && !array[place].is_read_only()
                {
                    vm.burn(1, link.position)?;
                    let item = &mut array[place];
                    *item = changeable(std::mem::take(value));
                    let sized = vm.engine.ensure_data_size_within_limits(item);
                    sized.map_err(|raised| placed(raised, link.set_at))?;
                    return Ok((Dynamic::UNIT, true));
                }
            }
            _ => {}
        }
        self.rest_by_rhai(vm, receiver, by_reference, arguments)
    }

    fn rest_by_rhai(
        self,
        vm: &mut Vm<'_>,
        receiver: &mut Dynamic,
        by_reference: bool,
        arguments: &mut [Dynamic],
    ) -> Walked {
        let value = self.by_rhai(vm, receiver, by_reference, arguments)?;
        let calls = matches!(self.links.last().map(|link| &link.does), Some(Does::Method { .. }));
        Ok((value, calls))
    }

    pub fn by_rhai(
        self,
        vm: &mut Vm<'_>,
        receiver: &mut Dynamic,
        by_reference: bool,
        arguments: &mut [Dynamic],
    ) -> Step<Dynamic> {
        let Some(link) = self.links.first() else { return Ok(std::mem::take(receiver)) };
        let rest = match by_reference {
            true => &link.rest.by_reference,
            false => &link.rest.by_value,
        };
        let mut operands: Few<&mut Dynamic> =
            arguments.iter_mut().chain(std::iter::once(receiver)).collect();
        rest.run(vm, &mut operands)
    }
}

/// A handle of ours whose parts no setter takes back.
pub fn is_plain_handle(receiver: &Dynamic) -> bool {
    receiver.is_variant() && !api::directs().indexed.contains(&receiver.type_id())
}

/// Whether a map holds a function under a method's name, which Rhai then calls.
fn has_function(receiver: &Dynamic, name: &str) -> bool {
    receiver.as_map_ref().is_ok_and(|map| map.contains_key(name))
}

/// An item's place in an array, if there is such an item.
pub fn place_in(array: &Dynamic, index: &Dynamic) -> Option<usize> {
    let length = array.as_array_ref().ok()?.len();
    let index = index.as_int().ok()?;
    let place = match usize::try_from(index) {
        Ok(place) => place,
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (place < length).then_some(place)
}
