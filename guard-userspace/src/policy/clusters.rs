//! API servers of Kubernetes, as users' kubeconfigs name them.
//! <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use yaml_rust2::YamlLoader;

use super::{Address, Homes, address};

/// Larger files are no kubeconfigs.
const MAX_FILE: u64 = 4 << 20;
/// Servers that are known at most.
const MAX_SERVERS: usize = 1024;
/// Where there are some besides homes.
const SYSTEM: [&str; 4] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/rancher/k3s/k3s.yaml",
    "/var/lib/k0s/pki/admin.conf",
];

/// The servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clusters {
    names: BTreeSet<String>,
    addresses: BTreeSet<Address>,
    /// Which files this comes from, and of when they were.
    files: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Clusters {
    /// Those in the kubeconfigs that there are now.
    pub fn of(homes: &Homes) -> Self {
        let mut clusters = Self::default();
        let of_users = homes.iter().map(|home| home.join(".kube/config"));
        for path in of_users.chain(SYSTEM.iter().map(PathBuf::from)) {
            clusters.files.push((path.clone(), changed(&path)));
            let small = fs::metadata(&path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE);
            if small && let Ok(text) = fs::read_to_string(&path) {
                clusters.read(&text);
            }
        }
        clusters
    }

    /// Whether a file has changed since.
    pub fn are_old(&self) -> bool {
        self.files.iter().any(|(path, then)| changed(path) != *then)
    }

    /// Names of servers.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    /// Servers that have no name.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.addresses.iter().copied()
    }

    /// Whether a name (or an address as text) is a server's.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name) || name.parse().is_ok_and(|addr| self.is_at(addr))
    }

    /// Whether a server has this address and no name.
    pub fn is_at(&self, addr: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|server| server.contains(addr, server.port))
    }

    fn read(&mut self, text: &str) {
        // What is no YAML names no server.
        let documents = YamlLoader::load_from_str(text).unwrap_or_default();
        for document in &documents {
            for cluster in document["clusters"].as_vec().into_iter().flatten() {
                if let Some(server) = cluster["cluster"]["server"].as_str() {
                    self.add(server);
                }
            }
        }
    }

    fn add(&mut self, server: &str) {
        if self.names.len() + self.addresses.len() >= MAX_SERVERS {
            return;
        }
        let Some((scheme, rest)) = server.split_once("://") else {
            return;
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let default = if scheme == "http" { 80 } else { 443 };
        let (host, port) = match authority
            .strip_prefix('[')
            .and_then(|v6| v6.split_once(']'))
        {
            Some((v6, port)) => (v6, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Some(default), |port| port.parse().ok());
        let Some(port) = port else { return };
        match host.parse::<IpAddr>() {
            Ok(addr) => {
                self.addresses.insert(Address {
                    addr: address::mapped(addr),
                    prefix: 128,
                    port,
                });
            }
            Err(_) => {
                let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
                if !name.is_empty() {
                    self.names.insert(name);
                }
            }
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfigs_servers_are_known_by_name_or_address() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".kube")).unwrap();
        let config = home.path().join(".kube/config");
        let text = "apiVersion: v1\nkind: Config\nclusters:\n\
            - name: a\n  cluster:\n    server: https://K8s.Example.test:6443/x\n\
            - {name: b, cluster: {server: \"https://10.1.2.3\"}}\n\
            - name: c\n  cluster: {server: 'https://[2001:db8::1]:6443'}\n\
            - name: d\n  cluster: {server: nonsense}\n";
        fs::write(&config, text).unwrap();
        let clusters = Clusters::of(&Homes::of([home.path()]));
        assert_eq!(clusters.names().collect::<Vec<_>>(), ["k8s.example.test"]);
        assert!(clusters.has("10.1.2.3") && clusters.has("2001:db8::1"));
        assert!(!clusters.has("10.1.2.4") && !clusters.has("example.test"));
        let ports: Vec<u16> = clusters.addresses().map(|server| server.port).collect();
        assert_eq!(ports, [443, 6443]);
        assert!(!clusters.are_old());
        fs::remove_file(&config).unwrap();
        assert!(clusters.are_old());
        fs::write(&config, "clusters: [[[").unwrap();
        assert_eq!(Clusters::of(&Homes::of([home.path()])).names().count(), 0);
    }
}
