//! CPU time per request of Selvedge beside its peers, interleaved in one run:
//! `cargo bench --bench proxying [-- ROUNDS SECONDS]`.
//!
//! Peers: Pingora with nothing around it (this program again), nginx, and nginx with LuaJIT where
//! installed. None writes an access log. One worker each on core 0; origin (nginx) and load (wrk)
//! on core 1. CPU time is read from `/proc`, since requests per second say little on a machine
//! with neighbours.

mod floor;
mod peers;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use peers::{Target, cpu, free_port, median, on_core, requests, start_nginx, up};

/// As Selvedge has it, so that the bare proxy is no slower by its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The same work for every scripted target; see `w6.rhai`, `w6_request.lua`, `w6_response.lua`.
const HEADERS: [&str; 3] = [
    "Cookie: theme=dark; uid=u-1234567; sess=abcdef0123456789",
    "Accept-Language: de-DE,de;q=0.9",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) bench",
];
fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [mode, port, origin] = args.as_slice()
        && mode == "floor"
    {
        return floor::serve(port, origin);
    }
    let number = |i: usize, default| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number(0, 7), number(1, 1));
    let folder = std::env::temp_dir().join(format!("selvedge-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut targets = start_all(&folder);
    let origin = targets.remove(0);
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        for target in &targets {
            let micros = measure(target, seconds);
            // The first round warms caches and connections.
            if round > 0 {
                figures.entry(target.name).or_default().push(micros);
            }
        }
    }
    report(&figures);
    drop((targets, origin));
    let _ = std::fs::remove_dir_all(&folder);
}

/// The origin first, then the targets.
fn start_all(folder: &Path) -> Vec<Target> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    std::fs::write(folder.join("k1"), vec![b'x'; 1024]).expect("a file");
    let origin_port = free_port();
    let origin = nginx(
        folder,
        "origin",
        origin_port,
        "1",
        &format!("location / {{ root {}; }}", folder.display()),
    );
    let mut targets = vec![origin];
    let plain = "location / { proxy_pass http://o; }";
    targets.push(nginx_proxy(folder, "nginx", origin_port, plain, ""));
    if Path::new("/usr/lib/nginx/modules/ngx_http_lua_module.so").exists() {
        let lua = format!(
            "location / {{ access_by_lua_file {0}/w6_request.lua; header_filter_by_lua_file {0}/w6_response.lua; proxy_pass http://o; }}",
            benches.display()
        );
        targets.push(nginx_proxy(folder, "nginx+lua", origin_port, &lua, LUA));
    }
    let port = free_port();
    let me = std::env::current_exe().expect("this program");
    let floor = on_core("0", &me.display().to_string())
        .args(["floor", &port.to_string(), &format!("127.0.0.1:{origin_port}")])
        .spawn();
    targets.push(up(Target { name: "pingora", port, process: floor.expect("the floor starts") }));
    targets.push(selvedge(folder, "selvedge", origin_port, None));
    targets.push(selvedge(folder, "selvedge+filter", origin_port, Some(&benches.join("w6.rhai"))));
    targets
}

const LUA: &str = "load_module /usr/lib/nginx/modules/ndk_http_module.so; load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;";

fn nginx(folder: &Path, name: &'static str, port: u16, core: &str, location: &str) -> Target {
    start_nginx(
        folder,
        name,
        port,
        core,
        &format!("server {{ listen 127.0.0.1:{port} backlog=1024; {location} }}"),
        "",
    )
}

fn nginx_proxy(
    folder: &Path,
    name: &'static str,
    origin: u16,
    location: &str,
    modules: &str,
) -> Target {
    let port = free_port();
    // Without the module its directive is unknown.
    let path =
        if modules.is_empty() { "" } else { "lua_package_path \"/usr/share/lua/5.1/?.lua;;\";" };
    let http = format!(
        "upstream o {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 100000000; }}
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
         {path} server {{ listen 127.0.0.1:{port} backlog=1024; {location} }}"
    );
    start_nginx(folder, name, port, "0", &http, modules)
}

fn selvedge(folder: &Path, name: &'static str, origin: u16, filter: Option<&Path>) -> Target {
    let port = free_port();
    let (filters, used) = match filter {
        Some(script) => (format!("filters: {{ w6: {{ script: {} }} }}", script.display()), "[w6]"),
        None => (String::new(), "[]"),
    };
    let text = format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:{port}\" }} }}
upstreams: {{ o: {{ endpoints: [{{ address: \"127.0.0.1:{origin}\" }}] }} }}
{filters}
routes: [{{ name: all, match: {{}}, filters: {used}, upstream: o }}]
access_log: {{ format: \"off\" }}
limits: {{ requests_per_connection: 4000000000 }}
"
    );
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, text).expect("a file");
    let process = on_core("0", env!("CARGO_BIN_EXE_selvedge"))
        .args(["run", "--threads", "1", "-c"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn();
    up(Target { name, port, process: process.expect("selvedge starts") })
}

/// CPU microseconds per request over a run of the load.
fn measure(target: &Target, seconds: u64) -> f64 {
    let before = cpu(target.process.id());
    let count = requests(target.port, "/k1", seconds, &HEADERS);
    (cpu(target.process.id()) - before) * 1e6 / count
}

/// The median of the per-round relation of two targets.
fn paired(
    figures: &BTreeMap<&str, Vec<f64>>,
    a: &str,
    b: &str,
    f: fn(f64, f64) -> f64,
) -> Option<f64> {
    let (a, b) = (figures.get(a)?, figures.get(b)?);
    Some(median(&a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>()))
}

fn report(figures: &BTreeMap<&str, Vec<f64>>) {
    println!("{:18} CPU us per request, median (least, most)", "");
    for (name, values) in figures {
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        println!("{name:18} {:6.1} ({least:.1}, {most:.1})", median(values));
    }
    let show = |what: &str, value: Option<f64>, unit: &str| match value {
        Some(value) => println!("{what:48} {value:5.2}{unit}"),
        None => println!("{what:48} (not installed)"),
    };
    let ratio = |a, b| a / b;
    let more = |a, b| a - b;
    show("selvedge / pingora", paired(figures, "selvedge", "pingora", ratio), "x");
    show("selvedge / nginx", paired(figures, "selvedge", "nginx", ratio), "x");
    show("nginx+lua adds to nginx", paired(figures, "nginx+lua", "nginx", more), " us");
    show("filter adds to selvedge", paired(figures, "selvedge+filter", "selvedge", more), " us");
    show(
        "selvedge+filter / nginx+lua",
        paired(figures, "selvedge+filter", "nginx+lua", ratio),
        "x",
    );
}
