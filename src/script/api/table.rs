//! The table of functions: each is registered and documented in one place.

use std::any::{TypeId, type_name};
use std::collections::{BTreeMap, BTreeSet};

use rhai::{Dynamic, FuncRegistration, ImmutableString, Module, RhaiFunc, RhaiNativeFunc};

/// One entry of the reference.
pub struct Doc {
    pub area: &'static str,
    /// As a script writes it: `req.path`, `json::parse(text)`.
    pub signature: &'static str,
    pub text: &'static str,
    /// A script that evaluates to true; run as a test.
    pub example: Option<&'static str>,
    /// Further ways to write it.
    pub overloads: Vec<&'static str>,
    /// All that is registered under it, in types of Rust.
    pub forms: Vec<Form>,
}

/// One registered function: as it is written, what it takes and what it gives.
pub struct Form {
    pub signature: &'static str,
    pub takes: &'static str,
    pub gives: &'static str,
}

impl Form {
    fn of<A, R>(signature: &'static str) -> Self {
        Self { signature, takes: type_name::<A>(), gives: type_name::<R>() }
    }
}

impl Doc {
    /// `req` of `req.path`, when this is a property that can be read.
    pub fn property(&self) -> Option<(&'static str, &'static str)> {
        let (object, name) = self.signature.split_once('.')?;
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (plain(object) && plain(name)).then_some((object, name))
    }
}

/// A function of a module, for code that calls it without the engine.
#[derive(Clone)]
pub struct Direct {
    pub parameters: Vec<TypeId>,
    pub function: RhaiFunc,
}

impl Direct {
    fn of<A: 'static, const N: usize, const X: bool, R, const F: bool, T>(
        function: RhaiFunc,
    ) -> Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        // As Rhai maps them: all strings are of one type.
        let text = |of: &TypeId| *of == TypeId::of::<&str>() || *of == TypeId::of::<String>();
        let mapped = |of: TypeId| if text(&of) { TypeId::of::<ImmutableString>() } else { of };
        Self { parameters: T::param_types().into_iter().map(mapped).collect(), function }
    }

    /// Whether it is for arguments of these types.
    pub fn takes(&self, arguments: &[&mut Dynamic]) -> bool {
        let fits = |(parameter, argument): (&TypeId, &&mut Dynamic)| {
            *parameter == TypeId::of::<Dynamic>() || *parameter == argument.type_id()
        };
        self.parameters.iter().zip(arguments).all(fits)
    }

    /// Which parameters take anything. Rhai tries functions in the order of these numbers.
    pub fn wildcards(&self) -> u32 {
        self.parameters.iter().fold(0, |bits, parameter| {
            (bits << 1) | u32::from(*parameter == TypeId::of::<Dynamic>())
        })
    }
}

/// What lowered code has to know of the table.
#[derive(Default)]
pub struct Directs {
    /// Functions of modules, by module and name.
    pub functions: BTreeMap<(&'static str, &'static str), Vec<Direct>>,
    /// Properties that some type can set, by their bare names.
    pub setters: BTreeSet<&'static str>,
    /// Types whose items can be set.
    pub indexed: BTreeSet<TypeId>,
}

#[derive(Default)]
pub struct Table {
    pub global: Module,
    pub named: BTreeMap<&'static str, Module>,
    pub docs: Vec<Doc>,
    /// Properties that can be set, as `req.path`.
    pub settable: Vec<&'static str>,
    /// Names of types, by their Rust names.
    pub kinds: BTreeMap<&'static str, &'static str>,
    pub directs: Directs,
    area: &'static str,
}

impl Table {
    pub fn area(&mut self, title: &'static str) {
        self.area = title;
    }

    /// A type's name in messages.
    pub fn kind<T: 'static>(&mut self, name: &'static str) -> &mut Self {
        self.global.set_custom_type::<T>(name);
        self.kinds.insert(type_name::<T>(), name);
        self
    }

    /// A documented function. Its name is read from the signature: what stands before the bracket,
    /// after the object's dot; a module stands before `::`.
    pub fn function<A: 'static, const N: usize, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        text: &'static str,
        function: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        self.document(signature, text, Form::of::<A, R>(signature));
        self.register(signature, function)
    }

    /// A further form of the function documented before; listed if it is written differently.
    pub fn overload<A: 'static, const N: usize, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        function: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        if let Some(doc) = self.docs.last_mut() {
            doc.forms.push(Form::of::<A, R>(signature));
            if doc.signature != signature && !doc.overloads.contains(&signature) {
                doc.overloads.push(signature);
            }
        }
        self.register(signature, function)
    }

    /// A function that the reference does not list.
    pub fn hidden<A: 'static, const N: usize, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        function: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        self.register(signature, function)
    }

    fn document(&mut self, signature: &'static str, text: &'static str, form: Form) {
        let (area, overloads, forms) = (self.area, Vec::new(), vec![form]);
        self.docs.push(Doc { area, signature, text, example: None, overloads, forms });
    }

    fn register<A: 'static, const N: usize, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        function: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        let path = signature.split('(').next().unwrap_or(signature);
        // Handles are changed behind a lock, so a constant one is no hindrance.
        let function = function.into_rhai_function(true, false);
        let (module, name) = match path.split_once("::") {
            Some((module, name)) => {
                let direct = Direct::of::<A, N, X, R, F, T>(function.clone());
                self.directs.functions.entry((module, name)).or_default().push(direct);
                (self.named.entry(module).or_default(), name)
            }
            None => (&mut self.global, path.rsplit('.').next().unwrap_or(path)),
        };
        FuncRegistration::new(name).set_into_module_raw(module, T::param_types(), function);
        self
    }

    /// A documented property that can be read.
    pub fn get<A: 'static, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        text: &'static str,
        getter: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, 1, X, R, F> + Send + Sync + 'static,
    {
        self.document(signature, text, Form::of::<A, R>(signature));
        let name = signature.rsplit('.').next().unwrap_or(signature);
        FuncRegistration::new_getter(name)
            .with_purity(true)
            .set_into_module(&mut self.global, getter);
        self
    }

    /// The setter of a documented property, by the same signature.
    pub fn set<A: 'static, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        setter: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, 2, X, R, F> + Send + Sync + 'static,
    {
        if !self.settable.contains(&signature) {
            self.settable.push(signature);
        }
        let name = signature.rsplit('.').next().unwrap_or(signature);
        self.directs.setters.insert(name);
        FuncRegistration::new_setter(name).set_into_module(&mut self.global, setter);
        self
    }

    pub fn index_get<A: 'static, const X: bool, R, const F: bool, T>(
        &mut self,
        signature: &'static str,
        text: &'static str,
        getter: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, 2, X, R, F> + Send + Sync + 'static,
    {
        self.document(signature, text, Form::of::<A, R>(signature));
        FuncRegistration::new_index_getter()
            .with_purity(true)
            .set_into_module(&mut self.global, getter);
        self
    }

    pub fn index_set<A: 'static, const X: bool, R, const F: bool, T>(
        &mut self,
        setter: T,
    ) -> &mut Self
    where
        R: rhai::Variant + Clone,
        T: RhaiNativeFunc<A, 3, X, R, F> + Send + Sync + 'static,
    {
        self.directs.indexed.insert(T::param_types()[0]);
        FuncRegistration::new_index_setter().set_into_module(&mut self.global, setter);
        self
    }

    /// An example for the entry before.
    pub fn example(&mut self, script: &'static str) -> &mut Self {
        if let Some(doc) = self.docs.last_mut() {
            doc.example = Some(script);
        }
        self
    }
}
