//! Where a configuration comes from: a file, over it the environment, over that the flags
//! (CONTRACT 13). Variables that are not ours are left alone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem, Problems};
use super::raw::{self, Table, Value, Written};
use super::{Admin, Config, read};

/// Where a configuration comes from. The default is nothing at all: [`Config::default`].
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment's variables; those that don't begin with `TIDEGATE_` don't matter.
    pub variables: Vec<(OsString, OsString)>,
    /// The flags of `tidegate serve`.
    pub flags: Flags,
}

/// The flags of `tidegate serve` that say something about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--dev`
    pub dev: bool,
    /// `--insecure`, which needs `--dev`.
    pub insecure: bool,
    /// `--listen`, each; none leaves it to the other sources.
    pub listen: Vec<SocketAddr>,
    /// `--admin`
    pub admin: Option<Admin>,
    /// `--workers`
    pub workers: Option<NonZeroUsize>,
}

impl Sources {
    /// Reads all of them. Call it again for a new look at the file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, as far as it can be found.
    pub fn load(&self) -> Result<Config, Problems> {
        let file = match &self.file {
            None => Ok(Table::default()),
            Some(path) => fs::read(path)
                .map_err(|error| {
                    let place = Place::File(path.clone());
                    vec![Problem { place, key: None, message: format!("can't be read: {error}") }]
                })
                .and_then(|input| Table::parse(path, &input)),
        };
        self.resolve(file)
    }

    /// Reads all of them with `input` in place of what the file has; `path` is its name in problems.
    ///
    /// # Errors
    ///
    /// As [`Sources::load`]'s.
    pub fn load_from(&self, path: &Path, input: &[u8]) -> Result<Config, Problems> {
        self.resolve(Table::parse(path, input))
    }

    /// Lays the sources over each other, the file's being `file`.
    pub(super) fn resolve(&self, file: Result<Table, Vec<Problem>>) -> Result<Config, Problems> {
        let (file, mut problems) = match file {
            Ok(table) => (table, Vec::new()),
            // The other sources may have mistakes of their own.
            Err(problems) => (Table::default(), problems),
        };
        let mut overlay = self.overlay_of_variables(&mut problems);
        self.flags.lay_over(&mut overlay);
        let config = read::config(&file, &overlay, &self.flags, &mut problems);
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Err(Problems(problems))
    }

    /// What the variables say, by key.
    fn overlay_of_variables(&self, problems: &mut Vec<Problem>) -> Overlay {
        let known: BTreeMap<String, String> = raw::variables().collect();
        let mut overlay = Overlay::new();
        for (name, text) in &self.variables {
            // A name that is no UTF-8 is not ours.
            let Some(name) = name.to_str().filter(|it| it.starts_with(raw::VARIABLE_PREFIX)) else {
                continue;
            };
            let place = Place::Variable(name.to_owned());
            let message = match (known.get(name), text.to_str()) {
                (Some(key), Some(text)) => {
                    let value = Value::Plain(text.to_owned());
                    overlay.insert(key.clone(), Written { place, value });
                    continue;
                }
                (Some(_), None) => "is no UTF-8; allowed is UTF-8".to_owned(),
                (None, _) if is_service_link(name, text) => continue,
                (None, _) => {
                    let nearest = raw::nearest_variable(name).unwrap_or_default();
                    format!("there is no such variable; the nearest is {nearest}")
                }
            };
            problems.push(Problem { place, key: None, message });
        }
        overlay
    }
}

impl Flags {
    fn lay_over(&self, overlay: &mut Overlay) {
        let plain = |flag, text| Written { place: Place::Flag(flag), value: Value::Plain(text) };
        if !self.listen.is_empty() {
            let items = self.listen.iter().map(|it| plain("--listen", it.to_string())).collect();
            let written = Written { place: Place::Flag("--listen"), value: Value::List(items) };
            overlay.insert("listen".to_owned(), written);
        }
        let admin = match self.admin {
            Some(Admin::On(address)) => Some(address.to_string()),
            Some(Admin::Off) => Some("off".to_owned()),
            Some(Admin::Main) | None => None,
        };
        if let Some(text) = admin {
            overlay.insert("admin".to_owned(), plain("--admin", text));
        }
        if let Some(workers) = self.workers {
            overlay.insert("workers".to_owned(), plain("--workers", workers.to_string()));
        }
    }
}

/// What variables and flags say, by dotted key; it wins over the file.
pub(super) type Overlay = BTreeMap<String, Written>;

/// Whether a variable is one of those that Kubernetes and Docker set for a *service* of our name,
/// or of one that begins with it (`TIDEGATE_PORT=tcp://…`, `TIDEGATE_ADMIN_SERVICE_HOST`): nobody
/// wrote it, so it is no mistake.
fn is_service_link(name: &str, text: &OsStr) -> bool {
    let is_address = text.to_str().is_some_and(|text| {
        ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
    });
    let is_of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()))
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(
                (parts.next(), parts.next()),
                (None | Some("PROTO" | "PORT" | "ADDR"), None)
            )
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || is_of_port
        || (name.ends_with("_PORT") && is_address)
}
