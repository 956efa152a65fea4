//! Calls of functions written in Rust: which one a call means is Rhai's decision, taken once for
//! each combination of types and remembered where the call stands.

use std::any::TypeId;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use once_cell::sync::Lazy;
use rhai::{
    BloomFilterU64, Caches, Dynamic, EvalAltResult, FnArgsVec, FnResolutionCacheEntry,
    ImmutableString, NativeCallContext, Position, RhaiFunc,
};

use super::island::Island;
use super::vm::{Raised, Step, Vm};

/// A few operands, on the stack.
pub type Few<T> = FnArgsVec<T>;

/// Combinations of types that a call remembers; others ask Rhai each time.
const REMEMBERED: usize = 2;
/// After so many questions without an answer a call asks no more.
const QUESTIONS: u8 = 8;

/// How Rhai calls a function here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// By name.
    Call,
    /// By its sign. Rhai counts the call unless the operator is built in.
    Operator,
    /// A getter or a setter of a property.
    Property,
    /// A getter or a setter of an index.
    Index,
}

/// A function, and the types of arguments that it was found for.
struct Known {
    types: Few<TypeId>,
    function: RhaiFunc,
    source: Option<ImmutableString>,
}

/// One place in a script that calls a native.
pub struct Site {
    name: ImmutableString,
    style: Style,
    position: Position,
    /// The call alone, on operands.
    island: Island,
    known: [OnceLock<Known>; REMEMBERED],
    asked: AtomicU8,
}

impl Site {
    pub fn new(name: &str, style: Style, position: Position, island: Island) -> Self {
        let known = [const { OnceLock::new() }; REMEMBERED];
        Self { name: name.into(), style, position, island, known, asked: AtomicU8::new(0) }
    }

    /// Calls it. None of the arguments is shared; `by_reference` tells about the first one.
    /// Gives the result and whether the function may have changed its first argument.
    pub fn call(
        &self,
        vm: &mut Vm<'_>,
        arguments: &mut [&mut Dynamic],
        by_reference: bool,
    ) -> Step<(Dynamic, bool)> {
        for known in &self.known {
            let Some(known) = known.get() else { break };
            if known.fits(arguments) {
                self.check_constant(&known.function, is_constant(arguments))?;
                if self.style == Style::Operator {
                    vm.burn(1, self.position)?;
                }
                return Ok(self.run(vm, known, arguments, by_reference)?);
            }
        }
        self.ask(vm, arguments)
    }

    /// What [`Site::call`] does when the function is known: as `Engine::exec_native_fn_call`.
    fn run(
        &self,
        vm: &mut Vm<'_>,
        known: &Known,
        arguments: &mut [&mut Dynamic],
        by_reference: bool,
    ) -> Result<(Dynamic, bool), Raised> {
        let function = &known.function;
        let is_method = function.is_method();
        let levels = usize::from(self.style != Style::Property);
        vm.global.level += levels;
        let (name, source) = (self.name.as_str(), known.source.as_deref());
        let (engine, at) = (vm.engine, self.position);
        let context = function
            .has_context()
            .then(|| NativeCallContext::new_with_all_fields(engine, name, source, &*vm.global, at));
        let result = if by_reference && !is_method && !arguments.is_empty() {
            // It takes its first argument by value, and would leave the variable empty.
            let mut first = arguments[0].clone();
            let rest = arguments[1..].iter_mut().map(|argument| &mut **argument);
            let mut arguments: Few<&mut Dynamic> =
                std::iter::once(&mut first).chain(rest).collect();
            invoke(function, context, &mut arguments)
        } else {
            invoke(function, context, arguments)
        };
        vm.global.level -= levels;
        let result = result.and_then(|value| within_sizes(vm, value));
        let result = result.map_err(|raised| placed(raised, self.position))?;
        if by_reference && has_size(arguments[0]) {
            let sized = vm.engine.ensure_data_size_within_limits(arguments[0]);
            sized.map_err(|raised| placed(raised, self.position))?;
        }
        Ok((result, is_method))
    }

    /// What changes its first argument refuses a constant.
    fn check_constant(&self, function: &RhaiFunc, is_constant: bool) -> Result<(), Raised> {
        if function.is_pure() || !is_constant {
            return Ok(());
        }
        let name = self.name.to_string();
        Err(EvalAltResult::ErrorNonPureMethodCallOnConstant(name, self.position).into())
    }

    /// Lets Rhai make the call, and looks at what it found.
    #[cold]
    fn ask(&self, vm: &mut Vm<'_>, arguments: &mut [&mut Dynamic]) -> Step<(Dynamic, bool)> {
        let free = self.known.iter().find(|known| known.get().is_none());
        let free = free.filter(|_| self.asked.fetch_add(1, Ordering::Relaxed) < QUESTIONS);
        let Some(free) = free else {
            self.asked.store(QUESTIONS, Ordering::Relaxed);
            return Ok((self.island.run(vm, arguments)?, true));
        };
        let types = arguments.iter().map(|argument| argument.type_id()).collect();
        let is_constant = is_constant(arguments);
        let mut caches = Caches::new();
        caches.fn_resolution_cache_mut().bloom_filter = SATURATED.clone();
        std::mem::swap(vm.caches, &mut caches);
        let result = self.island.run(vm, arguments);
        std::mem::swap(vm.caches, &mut caches);
        let mut changed = true;
        if let Some(FnResolutionCacheEntry { func, source }) = self.found(&mut caches) {
            changed = func.is_method();
            // As a value it was a copy.
            self.check_constant(&func, is_constant)?;
            // Lost against another thread that asked the same at the same time: no harm.
            let _ = free.set(Known { types, function: func, source });
        }
        Ok((result?, changed))
    }

    /// The one native that Rhai looked up. A property that is not there is looked for as an
    /// index as well; then the entries are two, and none is taken.
    fn found(&self, caches: &mut Caches) -> Option<FnResolutionCacheEntry> {
        let looked_up = &caches.fn_resolution_cache_mut().dict;
        let by_name = matches!(self.style, Style::Call | Style::Operator);
        if !by_name && looked_up.len() != 1 {
            return None;
        }
        let mut found = looked_up.values().flatten();
        match (found.next(), found.next()) {
            (Some(entry), None) if can_invoke(&entry.func) => Some(entry.clone()),
            _ => None,
        }
    }
}

/// A filter that has seen everything, so that Rhai's cache keeps what it sees for the first time.
static SATURATED: Lazy<BloomFilterU64<64>> = Lazy::new(|| {
    let mut filter = BloomFilterU64::new();
    for bit in 0..64 * 8 {
        filter.mark(bit);
    }
    filter
});

impl Known {
    fn fits(&self, arguments: &[&mut Dynamic]) -> bool {
        self.types.len() == arguments.len()
            && self.types.iter().zip(arguments).all(|(known, given)| *known == given.type_id())
    }
}

fn is_constant(arguments: &[&mut Dynamic]) -> bool {
    arguments.first().is_some_and(|first| first.is_read_only())
}

fn can_invoke(function: &RhaiFunc) -> bool {
    function.get_native_fn().is_some() || function.get_plugin_fn().is_some()
}

/// Calls a function of which [`can_invoke`] is true.
pub fn invoke(
    function: &RhaiFunc,
    context: Option<NativeCallContext<'_>>,
    arguments: &mut [&mut Dynamic],
) -> Result<Dynamic, Raised> {
    if let Some(native) = function.get_native_fn() {
        return native(context, arguments);
    }
    match function.get_plugin_fn() {
        Some(plugin) => plugin.call(context, arguments),
        None => Err(EvalAltResult::ErrorSystem("not a native".into(), "lowering".into()).into()),
    }
}

/// Whether a value counts against a limit of size.
pub fn has_size(value: &Dynamic) -> bool {
    value.is_string() || value.is_array() || value.is_map() || value.is_blob()
}

pub fn within_sizes(vm: &Vm<'_>, value: Dynamic) -> Result<Dynamic, Raised> {
    if has_size(&value) {
        vm.engine.ensure_data_size_within_limits(&value)?;
    }
    Ok(value)
}

/// The error, at this place if it has none.
pub fn placed(mut raised: Raised, position: Position) -> Raised {
    if raised.position().is_none() {
        raised.set_position(position);
    }
    raised
}
