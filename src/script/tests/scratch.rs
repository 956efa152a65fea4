//! scratch
use super::*;

fn wrap(text: &str) -> String {
    let code: String = text.lines().filter(|l| !l.starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut functions = String::new();
    let mut rest = String::new();
    let mut at = code.as_str();
    while let Some(i) = at.find("fn ") {
        rest.push_str(&at[..i]);
        let mut depth = 0;
        let mut end = at.len();
        for (j, c) in at[i..].char_indices() {
            if c == '{' {
                depth += 1
            }
            if c == '}' {
                depth -= 1;
                if depth == 0 {
                    end = i + j + 1;
                    break;
                }
            }
        }
        functions.push_str(&at[i..end]);
        functions.push('\n');
        at = &at[end..];
    }
    rest.push_str(at);
    let consts: String = if rest.contains("const A = 1;") {
        rest = rest.replace("const A = 1;", "");
        "const A = 1;".into()
    } else {
        String::new()
    };
    format!("{consts}\n{functions}\nfn on_request(req) {{ {rest} }}")
}

#[tokio::test]
async fn scratch_hostile() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir("/work/shared/cases/hostile")
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        eprintln!("{name}");
        let t = Instant::now();
        let script = match compile_source(&filter(), wrap(&text)) {
            Ok(s) => Arc::new(s),
            Err(p) => {
                eprintln!("   load: {}", p[0].message);
                continue;
            }
        };
        let load = t.elapsed();
        let t = Instant::now();
        let rss0 = rss();
        let r = run(
            &script,
            Hook::Request,
            Exchange::for_test(),
            Arc::new(FakeHost::default()),
            limits(),
        )
        .await;
        let took = t.elapsed();
        let what = match &r.outcome {
            Outcome::Fault(f) => {
                format!("{:?} {}", f.cause, f.message.chars().take(100).collect::<String>())
            }
            o => format!("{o:?}").chars().take(60).collect(),
        };
        let mark = if took > Duration::from_millis(250) || r.figures.peak_memory > 32 << 20 {
            "!!!!"
        } else {
            ""
        };
        eprintln!(
            "   {mark} load {load:?} run {took:?} peak {}K rss+{}K ops {} cpu {:?}: {what}",
            r.figures.peak_memory >> 10,
            rss() as i64 - rss0 as i64,
            r.figures.operations,
            r.figures.cpu
        );
    }
}

fn rss() -> usize {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}

#[test]
fn scratch_walk() {
    let e = rhai::Engine::new();
    let mut scope = rhai::Scope::new();
    scope.push_constant_dynamic("L", vec![rhai::Dynamic::from(1_i64)].into());
    scope.push_constant_dynamic("S", "text".into());
    scope.push_constant_dynamic("M", rhai::Map::from_iter([("a".into(), 1_i64.into())]).into());
    for src in [
        "L[0] = 1",
        "L += 1",
        "M.a",
        "M.a = 1",
        "S + 1",
        "let m = #{ speak: |x| x + 1, b: 2 }; m.x = |x| x;",
        "secret(`a`)",
        "let x = []; let m = #{ f: || x };",
    ] {
        let ast = e.compile_with_scope(&scope, format!("fn on_request(req) {{ {src} }}")).unwrap();
        ast.walk(&mut |p: &[rhai::ASTNode]| {
            eprintln!("{} {:?}", p.len(), p.last().unwrap());
            true
        });
    }
}
