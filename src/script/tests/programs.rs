//! Random scripts: templates that are filled with smaller ones.
//!
//! `{i}` is an expression of a kind, `$i` a variable of it, `@i` a new variable of it, `#` a fresh
//! number, `{B}` a block and `{L}` the body of a loop. Kinds: i(nt) b(ool) s(tring) f(loat) m(ap)
//! a(rray) h (headers) c(losure) u (anything).

/// xorshift64*: a seed makes the same script everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % n.max(1)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const KINDS: &str = "iiibbsssffmmaau";

const ANY_KIND: &[&str] = &[
    "(if {b} { {k} } else { {k} })",
    "(switch {u} { 1 | 7 => {k}, \"a\" | 'c' => {k}, 2..5 if {b} => {k}, _ => {k} })",
    "(switch {s} { \"GET\" if {b} => {k}, \"/k1\" => {k}, _ => {k} })",
    "({u} ?? {k})",
    "{ let z = {k}; z }",
    "(|x| { if x == () { return {k}; } {k} }).call({u})",
    "(try_it(|| {k}) ?? {k})",
];

const INT: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "-4",
    "7",
    "100",
    "9223372036854775806",
    "10",
    "5",
    "({i} + {i})",
    "({i} - {i})",
    "({i} * {i})",
    "({i} / {i})",
    "({i} % {i})",
    "({i} & {i})",
    "({i} | {i})",
    "({i} ^ {i})",
    "({i} << {i})",
    "({i} >> {i})",
    "({i} ** 2)",
    "(-({i}))",
    "({i} + {f})",
    "({s}).len",
    "({s}).len()",
    "({a}).len()",
    "len({s})",
    "({s}).index_of({s})",
    "({m}).len()",
    "hash::bucket({s}, \"salt\", {i})",
    "hash::bucket({s}, {s}, 7)",
    "hi({i}, {s})",
    "max({i}, {i})",
    "parse_int({s})",
    "LIMIT",
    "TABLE.n",
    "LIST[{i}]",
    "({a})[0]",
    "({i}).abs()",
    "({i})[1]",
    "({a}).reduce(|sum, x| (sum ?? 0) + 1)",
    "{c}.call({i})",
    "({u}).len()",
    "({a}).index_of({u})",
];

const BOOL: &[&str] = &[
    "true",
    "false",
    "true",
    "({i} == {i})",
    "({i} < {i})",
    "({i} >= {i})",
    "({i} != {i})",
    "({f} < {f})",
    "({f} == {i})",
    "({s} == {s})",
    "({s} != {s})",
    "({s} > {s})",
    "({u} == {u})",
    "({u} != {u})",
    "({u} == ())",
    "({u} != ())",
    "({b} && {b})",
    "({b} || {b})",
    "({b} && {b} && {b})",
    "(!({b}))",
    "({b} & {b})",
    "({b} ^ {b})",
    "({b} == {b})",
    "({s} in {s})",
    "({i} in {a})",
    "({s} !in {m})",
    "({s}).starts_with({s})",
    "({s}).ends_with({s})",
    "({s}).contains({s})",
    "contains({s}, {s})",
    "req.path.starts_with(\"/k\")",
    "req.path.starts_with({s})",
    "req.headers.contains({s})",
    "h.contains({s})",
    "({a}).contains({u})",
    "({a}).some(|x| x == {u})",
    "({a}).all(|x| {b})",
    "hb({i})",
    "({i} in 0..{i})",
    "({s}).is_empty()",
    "is_shared({u})",
    "(type_of({u}) == \"i64\")",
    "({u} > {u})",
    "TABLE.deep.yes",
    "({m} == {m})",
    "(!({u}))",
    "({a} == {a})",
    "(h[{s}] == {u})",
];

const TEXT: &[&str] = &[
    "\"\"",
    "\"a\"",
    "\"accept\"",
    "\"x-a\"",
    "\"/k1\"",
    "\"GET\"",
    "\"bad name\"",
    "\"bad\\nvalue\"",
    "\"a longer text than fits into its place\"",
    "req.path",
    "req.method",
    "NAME",
    "LIST[1]",
    "({s} + {s})",
    "({s} + {s} + {s})",
    "({s} + {i})",
    "({i} + {s})",
    "({s} + 'c')",
    "({s} - {s})",
    "({s} + {u})",
    "`<${{s}}-${{u}}>`",
    "`${{i}}${{b}}`",
    "`${{f}}`",
    "`${{a}}`",
    "({s}).to_upper()",
    "({s}).sub_string({i})",
    "({s}).sub_string(0, {i})",
    "({s}).to_lower().to_upper()",
    "({s})[0..{i}]",
    "({s}).trimmed()",
    "({s}).replaced({s}, {s})",
    "(req.headers[{s}] ?? {s})",
    "(h[{s}] ?? \"d\")",
    "hs({i}, {s})",
    "to_string({u})",
    "type_of({u})",
    "({s}).to_upper().len.to_string()",
    "`${req.path.len}${req.headers[{s}]?.len}`",
    "({u}).to_string()",
    "(h[{s}]?.to_upper() ?? {s})",
    "req.headers[{s}].to_upper()",
    "(`a` + ({s}).len)",
    "({a}).to_string()",
    "{c}.call({s})",
    "({m}).keys()[0]",
    "req.nope",
    "req.headers.names()[0]",
    "({u} ?? {s}).to_upper()",
    "({s})[{i}].to_string()",
];

const FLOAT: &[&str] = &[
    "0.0",
    "1.5",
    "-2.25",
    "1e300",
    "0.1",
    "({f} + {f})",
    "({f} - {i})",
    "({i} * {f})",
    "({f} / {f})",
    "({f} % {f})",
    "(-({f}))",
    "({i}).to_float()",
    "({f}).floor()",
    "({f} ** {f})",
    "parse_float({s})",
];

const MAP: &[&str] = &[
    "#{}",
    "#{ a: {u}, b: {i} }",
    "#{ a: #{ b: {u} }, x: {a} }",
    "TABLE",
    "TABLE.deep",
    "({m} + {m})",
    "#{ f: |x| {k2} }",
    "#{ a: {s} }",
    "#{ \"b\": {u} }",
    "hm({u})",
];

const ARRAY: &[&str] = &[
    "[]",
    "[{i}, {u}, 3]",
    "[{s}, {s}]",
    "[[{i}], {m}]",
    "LIST",
    "({a} + {a})",
    "({s}).split(\",\")",
    "({m}).keys()",
    "({m}).values()",
    "({a}).map(|x| {k2})",
    "({a}).filter(|x| {b})",
    "[1, 2, 3].map(|x, n| x + n)",
    "({a}).filter(|x, n| n > {i})",
    "({s}).chars()",
    "({a})[0..{i}]",
    "[3, 1, 2].order()",
    "({a}).map(|x| { let y = x; y })",
];

const ANYTHING: &[&str] = &[
    "()",
    "1",
    "\"s\"",
    "'c'",
    "true",
    "2.5",
    "req",
    "({m}).a",
    "({m}).zz",
    "({m})[{s}]",
    "({m})?.b",
    "({a})[{i}]",
    "({a})?[0]",
    "({m}).a.b",
    "({m})?.a?.b",
    "({a})[0].a",
    "({m}).x[{i}]",
    "req.headers[{s}]",
    "req.ctx[{s}]",
    "req.ctx.n",
    "h[{s}]",
    "hu({s})",
    "({u})?.len",
    "0..{i}",
    "({m}).f.call({u})",
    "({m}).f({u})",
    "hash::any({u})",
    "json::stringify({u})",
    "json::parse({s})",
    "regex({s}).find({s})",
    "base64::encode({s})",
    "req.cookies[{s}]",
    "req.query[{s}]",
    "req.accepts([{s}])",
    "req.client.ip",
    "({a}).pop()",
    "({m}).get({s})",
    "{c}.call({u})",
    "Fn(\"hi\").call({i}, {s})",
    "call(Fn(\"hb\"), {i})",
    "({u} + {u})",
    "({u} * {u})",
    "({u} < {u})",
    "({u})[{u}]",
    "({u}).a",
    "({u}).len()",
    "nope({u})",
    "json::nope({u})",
    "({u}).nope({i})",
    "blob(3)",
    "({a}).find(|x| x == {u})",
    "{i}",
    "{s}",
    "{b}",
    "{f}",
    "{m}",
    "{a}",
    "{c}",
    "({s})[{i}]",
    "(-({u}))",
    "({s}).bump(1)",
];

const CLOSURE: &[&str] = &["(|x| {k2})", "(|x| x)", "Fn(\"hu\")"];

const STATEMENTS: &[&str] = &[
    "let @i = {i};",
    "let @s = {s};",
    "let @b = {b};",
    "let @u = {u};",
    "let @m = {m};",
    "let @a = {a};",
    "let @f = {f};",
    "const K# = {k}; let @u = K#;",
    "let @c = |x| x + {i};",
    "let @c = |x| { x += {i}; x };",
    "let @i = {u};",
    "$i = {i};",
    "$s = {s};",
    "$b = {b};",
    "$u = {u};",
    "$m = {m};",
    "$a = {a};",
    "$f = {f};",
    "$i += {i};",
    "$i -= {i};",
    "$i *= {i};",
    "$i /= {i};",
    "$i %= {i};",
    "$i <<= 2;",
    "$i += {f};",
    "$f += {f};",
    "$f *= {i};",
    "$s += {s};",
    "$s += {i};",
    "$s += 'c';",
    "$a += {a};",
    "$a += {i};",
    "$m += {m};",
    "$u += {u};",
    "$b |= {b};",
    "if {b} { {B} }",
    "if {b} { {B} } else { {B} }",
    "if {b} { {B} } else if {b} { {B} } else { {B} }",
    "{ {B} }",
    "let w# = 0; while w# < 4 && {b} { w# += 1; {L} }",
    "let w# = 0; loop { w# += 1; if w# > 3 { break {u}; } {L} }",
    "let w# = 0; do { w# += 1; {L} } while w# < 3;",
    "let w# = 0; do { w# += 1; {B} } until w# > 2 || {b};",
    "for @i in 0..{i} % 5 { {L} }",
    "for @i in 1..=3 { {L} }",
    "for @u in {a} { {L} }",
    "for (@u, n#) in {a} { {L} $u = n#; }",
    "for @u in {s}.chars() { {L} }",
    "for @u in {u} { {L} }",
    "for @s in {m}.keys() { {L} }",
    "for @i in range(0, 6, 2) { {L} }",
    "let @u = for q in {a} { if {b} { break q; } };",
    "switch {u} { 1 => {}, \"a\" => { {B} }, _ => { {B} } }",
    "switch {i} { 0 => { {B} }, 7 if {b} => { {B} }, 1..4 => { {B} } }",
    "try { {B} } catch { {B} }",
    "try { {B} } catch (e) { log::info(`${e}`); {B} }",
    "try { {B} throw {u}; } catch (e) { let @u = e; {B} }",
    "try { {B} } catch (e) { if {b} { throw; } {B} }",
    "try { try { {B} } catch (e) { throw e; } } catch (e) { log::info(to_string(e)); }",
    "if {b} { throw {u}; }",
    "if {b} { throw #{ status: 401, body: {s} }; }",
    "if {b} { return {u}; }",
    "log::info({s});",
    "log::info(`${{u}}`);",
    "{u};",
    "{i};",
    "fail({s});",
    "req.path = {s};",
    "req.path += {s};",
    "req.headers[{s}] = {s};",
    "req.headers[{s}] = {u};",
    "h[{s}] = {i};",
    "h[{s}] = ();",
    "req.headers.append({s}, {u});",
    "req.headers.remove({s});",
    "h.remove({s});",
    "req.ctx[{s}] = {u};",
    "req.ctx.n = {i};",
    "h[{s}] += {s};",
    "req.query = {s};",
    "req.path.trim();",
    "req.headers = {u};",
    "h.nope();",
    "req.nope = {i};",
    "req.method = {s};",
    "$m.a = {u};",
    "$m[{s}] = {u};",
    "$m.b += {i};",
    "$m.a.b = {u};",
    "$m.remove({s});",
    "$m.x[{i}] = {u};",
    "$m[\"a\"] += 1;",
    "$m.a.push({u});",
    "$a[0] = {u};",
    "$a[{i}] = {u};",
    "$a.push({u});",
    "push($a, {u});",
    "$a[-1] += {i};",
    "$a.insert({i}, {u});",
    "$a[0].a = {u};",
    "$a.clear();",
    "$a.pop();",
    "$a.reverse();",
    "$a.retain(|x| {b});",
    "$a.sort(|x, y| 0);",
    "$a.drain(|x| {b});",
    "$a.truncate({i});",
    "$a[0][1] = {u};",
    "$s.trim();",
    "trim($s);",
    "$s[0] = 'q';",
    "$s.push({s});",
    "$s.replace({s}, {s});",
    "$s.clear();",
    "$s.pad({i} % 40, 'x');",
    "$s.crop({i});",
    "let n# = $i; let f# = || { n# += 1; n# }; f#.call(); f#.call(); $i = n#;",
    "let f# = |x| { $i += x; }; f#.call({i});",
    "let g# = {a}; let f# = || g#.push({u}); f#.call(); let @a = g#;",
    "let f# = |x| x + $i; let @i = f#.call({i}) + f#.call(2);",
    "let t# = 0; ({a}).for_each(|| { t# += 1; }); let @i = t#;",
    "let f# = || $s + {s}; $s = f#.call();",
    "let @u = ({a}).map(|x| `${x}${$s}`);",
    "$i.bump({i});",
    "let o# = #{ v: {u}, get: || this.v }; let @u = o#.get();",
    "let f# = |x| { if x > 2 { throw {u}; } x }; let @u = f#.call({i});",
    "let f# = || { try { hu({s}) } catch (e) { e } }; let @u = f#.call();",
    "let @u = json::stringify($a);",
    "let c# = []; for i in 0..3 { c#.push(|| i); } let @a = c#.map(|f| f.call());",
    "LIMIT = 3;",
    "TABLE.n = 4;",
    "LIST.push({u});",
    "let LIMIT = {i}; LIMIT += 1; let @i = LIMIT;",
    "const Q# = {a}; Q#.push({u});",
    "const Q# = {m}; Q#.a = 1;",
    "let @i = {i}; { let @i = {i}; {B} }",
    "let x = {i}; let x = x + 1; let @i = x;",
    ";",
];

const IN_LOOPS: &[&str] =
    &["if {b} { break; }", "if {b} { continue; }", "if {b} { break {u}; }", "break;", "continue;"];

/// Writes one script.
pub struct Writer {
    random: Random,
    /// Names and kinds of what is in scope.
    variables: Vec<(String, char)>,
    depth: usize,
    /// Templates that may still be filled.
    budget: usize,
    fresh: usize,
    in_loop: bool,
    has_request: bool,
}

const DEPTH: usize = 4;

impl Writer {
    /// A script with helpers, constants, and `main(req)`.
    pub fn script(seed: u64) -> String {
        let random = Random::new(seed);
        let mut writer = Self {
            random,
            variables: Vec::new(),
            depth: 0,
            budget: 0,
            fresh: 0,
            in_loop: false,
            has_request: false,
        };
        let mut script = String::from(
            "const LIMIT = 3; const NAME = \"name\"; const LIST = [1, \"x\", [2]];\n\
             const TABLE = #{ n: 2, deep: #{ yes: true } };\n\
             fn try_it(f) { try { f.call() } catch { () } }\n\
             fn bump(n) { this += n; this }\nfn nothing() {}\n",
        );
        for (name, parameters, gives) in [
            ("hi", "i,s", 'i'),
            ("hs", "i,s", 's'),
            ("hb", "i", 'b'),
            ("hu", "s", 'u'),
            ("hm", "u", 'm'),
        ] {
            script.push_str(&writer.function(name, parameters, gives));
        }
        writer.has_request = true;
        script.push_str(&writer.function("main", "req", 'u'));
        script
    }

    fn function(&mut self, name: &str, parameters: &str, gives: char) -> String {
        let main = name == "main";
        let names: Vec<&str> = parameters.split(',').collect();
        self.variables = match main {
            true => Vec::new(),
            false => {
                names.iter().map(|n| ((*n).to_owned(), n.chars().next().unwrap_or('u'))).collect()
            }
        };
        self.budget = if main { 60 + self.random.below(120) } else { 12 };
        let mut body = match (main, name, self.random.below(4)) {
            (true, ..) => "let h = req.headers; ".to_owned(),
            (_, "hb", 0) => "if i > 0 { return hb(i - 1); } ".to_owned(),
            (_, "hu", 0) => "if s.len < 9 { return hu(s + \"x\"); } ".to_owned(),
            _ => String::new(),
        };
        let statements = if main { 2 + self.random.below(8) } else { self.random.below(3) };
        for _ in 0..statements {
            body.push_str(&self.statement());
            body.push('\n');
        }
        // Most often something that is there already.
        self.depth = if self.random.below(3) == 0 { 0 } else { DEPTH };
        body.push_str(&self.expression(gives));
        self.depth = 0;
        format!("fn {name}({}) {{ {body} }}\n", names.join(", "))
    }

    fn block(&mut self) -> String {
        let outer = self.variables.len();
        let mut text = String::new();
        for _ in 0..1 + self.random.below(3) {
            text.push_str(&self.statement());
            text.push('\n');
        }
        if self.random.below(3) == 0 {
            let kind = self.kind();
            text.push_str(&self.expression(kind));
        }
        self.variables.truncate(outer);
        text
    }

    fn kind(&mut self) -> char {
        let at = self.random.below(KINDS.len());
        char::from(KINDS.as_bytes()[at])
    }

    fn statement(&mut self) -> String {
        for _ in 0..8 {
            let template = match self.in_loop && self.random.below(8) == 0 {
                true => self.random.one(IN_LOOPS),
                false => self.random.one(STATEMENTS),
            };
            let nests = template.contains("{B}") || template.contains("{L}");
            if nests && (self.depth >= DEPTH || self.budget == 0) || !self.possible(template) {
                continue;
            }
            let safer = self.guarded(template);
            let filled = self.fill(safer.as_deref().unwrap_or(template), 'u');
            let declares = template.starts_with("let ") || template.starts_with("const ");
            // Most of what may fail is caught, so that scripts get somewhere.
            if declares || nests && self.random.below(2) == 0 || self.random.below(6) == 0 {
                return filled;
            }
            return format!("try {{ {filled} }} catch (e) {{ log::info(to_string(e)); }}");
        }
        ";".to_owned()
    }

    /// A declaration whose value may fail without ending the script.
    fn guarded(&mut self, template: &str) -> Option<String> {
        let kind = template.strip_prefix("let @")?.chars().next()?;
        let literal = match kind {
            'i' => "4",
            'b' => "true",
            's' => "\"text\"",
            'f' => "0.5",
            'm' => "#{ a: 1 }",
            'a' => "[1, 2]",
            'u' => "()",
            _ => return None,
        };
        let plain = template == format!("let @{kind} = {{{kind}}};") && self.random.below(9) > 0;
        let catch = "catch (e) { log::info(to_string(e)); }";
        plain.then(|| format!("let @{kind} = {literal}; try {{ ${kind} = {{{kind}}}; }} {catch}"))
    }

    /// Whether all that a template names is there.
    fn possible(&self, template: &str) -> bool {
        let wants_request = ["req", "h[", "h."].iter().any(|word| template.contains(word));
        let lacks = |(at, _): (usize, &str)| {
            let kind = template[at + 1..].chars().next().unwrap_or('u');
            kind.is_alphabetic() && !self.variables.iter().any(|(_, of)| *of == kind)
        };
        (self.has_request || !wants_request) && !template.match_indices('$').any(lacks)
    }

    fn expression(&mut self, kind: char) -> String {
        // Now and then of another kind, which somebody must refuse.
        let kind = if self.random.below(120) == 0 { self.kind() } else { kind };
        let templates = match kind {
            'i' => INT,
            'b' => BOOL,
            's' => TEXT,
            'f' => FLOAT,
            'm' => MAP,
            'a' => ARRAY,
            'c' => CLOSURE,
            _ => ANYTHING,
        };
        let variables: Vec<String> = self
            .variables
            .iter()
            .filter(|(_, of)| *of == kind)
            .map(|(name, _)| name.clone())
            .collect();
        if !variables.is_empty() && self.random.below(3) > 0 {
            return variables[self.random.below(variables.len())].clone();
        }
        let simple = self.depth >= DEPTH || self.budget == 0;
        if !simple && self.random.below(9) == 0 {
            let template = self.random.one(ANY_KIND);
            return self.fill(template, kind);
        }
        loop {
            let template = self.random.one(templates);
            if (simple && (template.contains('{') && template != "#{}")) || !self.possible(template)
            {
                if self.random.below(40) == 0 {
                    return templates[0].to_owned();
                }
                continue;
            }
            return self.fill(template, kind);
        }
    }

    /// Fills a template; `{k}` is an expression of `kind`.
    fn fill(&mut self, template: &str, kind: char) -> String {
        self.depth += 1;
        self.budget = self.budget.saturating_sub(1);
        self.fresh += 1;
        let number = self.fresh.to_string();
        let outer = self.variables.len();
        let (mut text, mut declared) = (String::new(), Vec::new());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '$', '@', '#']) {
            let mark = &rest[at..];
            text.push_str(&rest[..at]);
            // A variable is there after its statement, or in the body that it is declared for.
            if rest[..at].contains(';') || mark.starts_with("{B}") || mark.starts_with("{L}") {
                self.variables.append(&mut declared);
            }
            let (filled, length) = self.fill_one(mark, kind, &number, &mut declared);
            text.push_str(&filled);
            rest = &mark[length..];
        }
        text.push_str(rest);
        self.variables.append(&mut declared);
        if !template.starts_with("let ") && !template.starts_with("const ") {
            self.variables.truncate(outer);
        }
        self.depth -= 1;
        text
    }

    fn fill_one(
        &mut self,
        mark: &str,
        kind: char,
        number: &str,
        declared: &mut Vec<(String, char)>,
    ) -> (String, usize) {
        let bytes = mark.as_bytes();
        let second = bytes.get(1).copied().map_or(' ', char::from);
        let closes = |at: usize| bytes.get(at) == Some(&b'}');
        match (bytes[0], second) {
            (b'{', 'B') if closes(2) => (self.body(false), 3),
            (b'{', 'L') if closes(2) => (self.body(true), 3),
            (b'{', 'k') if closes(2) => (self.expression(kind), 3),
            (b'{', 'k') if closes(3) => {
                let other = self.kind();
                (self.expression(other), 4)
            }
            (b'{', of) if of.is_alphabetic() && closes(2) => (self.expression(of), 3),
            // `#{`, `${` and plain braces stand for themselves.
            (b'#', '{') => ("#{".to_owned(), 2),
            (b'$', '{') => ("${".to_owned(), 2),
            (b'#', _) => (number.to_owned(), 1),
            (b'@', of) => {
                self.fresh += 1;
                let name = match self.random.below(5) {
                    0 => self.known(of).unwrap_or(format!("v{}", self.fresh)),
                    _ => format!("v{}", self.fresh),
                };
                declared.push((name.clone(), of));
                (name, 2)
            }
            (b'$', of) => (self.known(of).unwrap_or("()".to_owned()), 2),
            _ => (mark[..1].to_owned(), 1),
        }
    }

    fn known(&mut self, kind: char) -> Option<String> {
        let names: Vec<&String> =
            self.variables.iter().filter(|(_, of)| *of == kind).map(|(name, _)| name).collect();
        let at = self.random.below(names.len());
        names.get(at).map(|name| (*name).clone())
    }

    fn body(&mut self, in_loop: bool) -> String {
        let outer = std::mem::replace(&mut self.in_loop, in_loop);
        let text = self.block();
        self.in_loop = outer;
        text
    }
}
