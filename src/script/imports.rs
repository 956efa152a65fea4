//! `import`: files of the script's own folder, read when the script is loaded and never later.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rhai::{
    AST, ASTNode, Engine, EvalAltResult, Expr, Module, ModuleResolver, Position, Scope, Stmt,
};

use super::api::handle_in;
use super::coverage::Coverage;
use super::fault::text_of;

type SharedModule = Arc<Module>;
type Resolved = Result<SharedModule, Box<EvalAltResult>>;

/// A file that was imported.
#[derive(Clone)]
pub struct Imported {
    pub file: PathBuf,
    pub source: String,
    pub ast: AST,
}

/// A resolver that cannot leave its folder.
#[derive(Clone)]
pub struct Imports {
    folder: PathBuf,
    files: Arc<Mutex<Vec<Imported>>>,
    loaded: Arc<Mutex<BTreeMap<String, SharedModule>>>,
    /// From the outermost inwards: what is being loaded now.
    loading: Arc<Mutex<Vec<String>>>,
    sealed: Arc<AtomicBool>,
    coverage: Option<Coverage>,
}

impl Imports {
    pub fn of(script: &Path) -> Self {
        let folder = script.parent().unwrap_or(Path::new("")).to_owned();
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        Self {
            folder,
            files: Arc::default(),
            loaded: Arc::default(),
            loading: Arc::default(),
            sealed: Arc::default(),
            coverage: None,
        }
    }

    /// What the imported functions run is noted there.
    pub fn covered_by(mut self, coverage: Option<Coverage>) -> Self {
        self.coverage = coverage;
        self
    }

    /// Makes each import a module of the engine, as functions do not see the top level's.
    pub fn bind(&self, engine: &mut Engine, ast: &AST) -> Result<(), (Position, String)> {
        let mut imports = Vec::new();
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Stmt(Stmt::Import(import, position))) = path.last() {
                let file = match &import.0 {
                    Expr::StringConstant(file, _) => Some(file.to_string()),
                    _ => None,
                };
                imports.push((file, import.1.name.to_string(), *position));
            }
            true
        });
        for (file, alias, position) in imports {
            let Some(file) = file else {
                return Err((position, "an import's path must be a plain string".to_owned()));
            };
            let module = self.resolve(engine, None, &file, position);
            let module = module.map_err(|error| (position, text_of(&error)))?;
            if !alias.is_empty() {
                engine.register_static_module(alias, module);
            }
        }
        Ok(())
    }

    /// From now on only what is loaded already can be imported.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Relaxed);
    }

    /// Whether the same files were imported with the same contents, in the same order.
    pub fn same_sources(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.files.lock().clone(), other.files.lock().clone());
        ours.iter()
            .map(|it| (&it.file, &it.source))
            .eq(theirs.iter().map(|it| (&it.file, &it.source)))
    }

    /// All that was imported, also by imports.
    pub fn files(&self) -> Vec<Imported> {
        self.files.lock().clone()
    }

    fn file(&self, path: &str) -> Result<PathBuf, String> {
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("\"{path}\" is not a plain path inside the script's folder"));
        }
        let file = self.folder.join(relative).with_extension("rhai");
        let real =
            |path: &Path| path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
        let (file, folder) = (real(&file)?, real(&self.folder)?);
        if file.starts_with(&folder) {
            Ok(file)
        } else {
            Err(format!("\"{path}\" leads out of the script's folder"))
        }
    }

    fn enter(&self, path: &str, at: Position) -> Result<(), Box<EvalAltResult>> {
        let mut loading = self.loading.lock();
        if loading.iter().any(|outer| outer == path) {
            let circle = format!("these import each other: {}, {path}", loading.join(", "));
            return Err(Box::new(EvalAltResult::ErrorRuntime(circle.into(), at)));
        }
        loading.push(path.to_owned());
        Ok(())
    }

    fn load(&self, engine: &Engine, path: &str, position: Position) -> Resolved {
        let failed =
            |message: String| Box::new(EvalAltResult::ErrorRuntime(message.into(), position));
        if self.sealed.load(Ordering::Relaxed) {
            return Err(failed(format!("\"{path}\" was not imported when the script was loaded")));
        }
        let file = self.file(path).map_err(failed)?;
        let source = std::fs::read_to_string(&file)
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        let mut ast = engine
            .compile(&source)
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        ast.set_source(file.display().to_string());
        // Run for its constants, which a module does not show; its own imports are loaded then.
        let mut scope = Scope::new();
        engine.run_ast_with_scope(&mut scope, &ast)?;
        let module = Module::eval_ast_as_new(
            Scope::new(),
            &self.runnable(engine, &ast, &source, &file)?,
            engine,
        )?;
        let constants = scope.iter().filter(|(_, constant, _)| *constant);
        let exported = module.iter_var().map(|(name, value)| (name, true, value.clone()));
        for (name, _, value) in constants.chain(exported) {
            if let Some(handle) = handle_in(&value) {
                let file = file.display();
                let what = "which can be edited, and all requests would share it";
                return Err(failed(format!(
                    "{file}: the constant {name} holds a {handle}, {what}"
                )));
            }
        }
        self.files.lock().push(Imported { file, source, ast });
        Ok(module.into())
    }
}

impl Imports {
    /// What is run of a file: with marks, where its lines are counted.
    fn runnable(
        &self,
        engine: &Engine,
        ast: &AST,
        source: &str,
        file: &Path,
    ) -> Result<AST, Box<EvalAltResult>> {
        let Some(coverage) = &self.coverage else { return Ok(ast.clone()) };
        let mut marked = engine.compile(coverage.marked(file, source, ast))?;
        marked.set_source(file.display().to_string());
        Ok(marked)
    }
}

impl ModuleResolver for Imports {
    fn resolve(&self, engine: &Engine, _: Option<&str>, path: &str, at: Position) -> Resolved {
        let known = self.loaded.lock().get(path).cloned();
        if let Some(module) = known {
            return Ok(module);
        }
        // No lock is held across the load: modules import modules.
        self.enter(path, at)?;
        let module = self.load(engine, path, at);
        self.loading.lock().pop();
        let module = module?;
        self.loaded.lock().insert(path.to_owned(), module.clone());
        Ok(module)
    }
}
