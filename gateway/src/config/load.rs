//! Reads gateway.toml: every section by its owner, then what must hold between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldgate_modbus::{ModbusConfig, PointLists};
use fieldgate_opcua::OpcuaConfig;
use fieldgate_types::{DeviceId, Problem, Section, Setting, Sources};
use thiserror::Error;

use super::environment;
use super::{AdminConfig, BrokerConfig, BufferConfig, CertsConfig, Config, EnrolmentConfig};
use crate::identity::policy::{Group, Policy};
use crate::northbound::UpstreamConfig;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't read the configuration `{}`: {source}; name another with -c FILE", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong: all of it, in the order of the file.
    #[error("{} in the configuration", count(.0.len()))]
    Problems(Vec<Problem>),
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

/// What reading a text gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, where nothing was wrong.
    pub config: Option<Config>,
    /// What was wrong.
    pub problems: Vec<Problem>,
    /// Every key that exists, dotted, in the sections that stand in the text.
    pub keys: BTreeSet<String>,
    /// Keys with the values in force.
    pub settings: Vec<Setting>,
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let loaded = load_with(path, false)?;
    let config = loaded.config.map(|config| Config { source: Some(path.to_owned()), ..config });
    config.ok_or(LoadError::Problems(loaded.problems))
}

/// The same with every setting, those of `[[tables]]` too, and whatever is wrong.
pub fn load_in_detail(path: &Path) -> Result<Loaded, LoadError> {
    load_with(path, true)
}

fn load_with(path: &Path, in_detail: bool) -> Result<Loaded, LoadError> {
    let (folder, text) = text_of(path)?;
    Ok(read_with(&path.display().to_string(), folder, &text, environment::variables(), in_detail))
}

/// Where the gateway of the file at `path` keeps its data, whatever else is wrong in it.
pub fn data_dir_of(path: &Path) -> Result<PathBuf, LoadError> {
    let (folder, text) = text_of(path)?;
    let sources = Sources::new(Box::new(|_| Err(std::io::ErrorKind::NotFound.into())));
    let (overrides, _) = environment::overrides(environment::variables());
    let root = sources.root_with(&path.display().to_string(), folder, &text, &overrides);
    Ok(root.section_or_empty("gateway").path_or("data_dir", DATA_DIR))
}

/// The folder that relative paths count from, and the text.
fn text_of(path: &Path) -> Result<(&Path, String), LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    Ok((folder, text))
}

const DATA_DIR: &str = "data";

/// Reads and checks `text`, which is called `name` in problems and stands in `folder`. The environment is left out.
pub fn read(name: &str, folder: &Path, text: &str) -> Loaded {
    read_with(name, folder, text, [], false)
}

/// As [`read`], with the values of `variables`; `in_detail`: settings of `[[tables]]` too.
pub(super) fn read_with(
    name: &str,
    folder: &Path,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    in_detail: bool,
) -> Loaded {
    let load: Box<fieldgate_types::Loader> = Box::new(|path| std::fs::read_to_string(path));
    let sources = if in_detail { Sources::in_detail(load) } else { Sources::new(load) };
    let (overrides, mut problems) = environment::overrides(variables);
    let config = compose(&sources.root_with(name, folder, text, &overrides));
    problems.extend(sources.problems());
    let settings = sources.settings();
    let config = config.filter(|_| problems.is_empty()).map(|config| {
        let mut files = sources.named();
        files.remove(&config.data_dir);
        Config { files, settings: settings.clone(), ..config }
    });
    Loaded { config, problems, keys: sources.asked(), settings }
}

fn compose(root: &Section) -> Option<Config> {
    let gateway = root.section_or_empty("gateway");
    let commands = root.section_or_empty("commands");
    let second = Duration::from_secs(1);

    let groups: Vec<Group> = root.sections("group").iter().filter_map(Group::read).collect();
    let names = groups.iter().map(|group| group.name.clone()).collect();
    let policies = root.sections("policy").iter().filter_map(|section| Policy::read(section, &names)).collect();

    let id: Option<DeviceId> = gateway.get("id");
    let mut seen = Ids::default();
    seen.0.extend(id.clone().map(|id| (id, "gateway")));
    let broker = BrokerConfig::read(&root.section_or_empty("broker"), &mut seen, &names);
    let mut lists = PointLists::default();
    let modbus = links(
        root,
        "modbus",
        |section| {
            let mut link = ModbusConfig::read(section)?;
            lists.share(&mut link);
            Some(link)
        },
        |link| link.devices.iter().map(|d| d.id.clone()).collect(),
        &mut seen,
    );
    let opcua =
        links(root, "opcua", OpcuaConfig::read, |link| link.devices.iter().map(|d| d.id.clone()).collect(), &mut seen);

    let upstream = root.section("upstream").map(|section| UpstreamConfig::read(&section));
    let config = Config {
        id,
        data_dir: gateway.path_or("data_dir", DATA_DIR),
        broker,
        certs: CertsConfig::read(&root.section_or_empty("certs"), &mut seen),
        enrolment: root.section("enrolment").and_then(|section| EnrolmentConfig::read(&section)),
        upstream: None,
        buffer: BufferConfig::read(&root.section_or_empty("buffer")),
        command_timeout: commands.duration("timeout", second..=second * 3600, second * 30),
        admin: AdminConfig::read(&root.section_or_empty("admin")),
        groups,
        policies,
        modbus,
        opcua,
        files: BTreeSet::new(),
        settings: Vec::new(),
        source: None,
    };
    // A section that is there and unusable has been complained about; no configuration then.
    let upstream = match upstream {
        None => None,
        Some(read) => Some(read?),
    };
    Some(Config { upstream, ..config })
}

/// Ids of the gateway, its users, its field devices and other CAs' devices, and where they were first used.
#[derive(Debug, Default)]
pub(super) struct Ids(BTreeMap<DeviceId, &'static str>);

impl Ids {
    /// Notes that `id` is used in `place`; a second use is a problem of `key`.
    pub(super) fn take(&mut self, section: &Section, key: &'static str, id: &DeviceId, place: &'static str) {
        if let Some(other) = self.0.insert(id.clone(), place) {
            section.problem(
                key,
                format_args!(
                    "the id `{id}` is used in `{other}` too, each device, user and the gateway need their own"
                ),
            );
        }
    }
}

fn links<T>(
    root: &Section,
    key: &'static str,
    mut read: impl FnMut(&Section) -> Option<T>,
    ids: impl Fn(&T) -> Vec<DeviceId>,
    seen: &mut Ids,
) -> Vec<T> {
    let mut links = Vec::new();
    for section in root.sections(key) {
        let Some(link) = read(&section) else { continue };
        for id in ids(&link) {
            seen.take(&section, "device", &id, key);
        }
        links.push(link);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read("gateway.toml", Path::new("."), text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_a_local_only_gateway() {
        let loaded = read("gateway.toml", Path::new("/srv"), "");
        let config = loaded.config.unwrap();
        assert!(config.upstream.is_none());
        assert_eq!(config.data_dir, Path::new("/srv/data"));
    }

    #[test]
    fn a_broken_upstream_gives_no_configuration() {
        let loaded = read("gateway.toml", Path::new("."), "[upstream]\n");
        assert!(loaded.config.is_none());
        assert_eq!(problems("[upstream]\n"), ["gateway.toml:1:2: upstream.url: is missing, it has no default"]);
    }

    #[test]
    fn the_admin_address_leaves_loopback_with_tls_alone() {
        assert_eq!(problems("[admin]\nlisten = \"0.0.0.0:9080\"\n").len(), 1);
        assert!(problems("[admin]\nlisten = \"0.0.0.0:9080\"\ntls = true\n").is_empty());
        assert!(problems("[admin]\nlisten = \"[::1]:0\"\n").is_empty());
    }
}
