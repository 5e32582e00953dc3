//! Which distribution this is, and how things are mended on it: the commands that its own documentation gives.

use std::{fs, path::Path};

/// Families of distributions that are mended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and their like: GRUB by /etc/default/grub and update-grub.
    Debian,
    /// Fedora, RHEL and their like: grubby.
    RedHat,
    /// Arch and its like: systemd-boot or GRUB.
    Arch,
    /// openSUSE and SLE: /etc/default/grub and grub2-mkconfig.
    Suse,
    /// NixOS: configuration.nix.
    NixOs,
    /// Another one.
    Other,
}

/// This machine's distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    /// How it is mended.
    pub family: Family,
    /// It boots by systemd-boot, as far as can be seen.
    pub systemd_boot: bool,
}

impl Distribution {
    /// This machine's, by os-release(5).
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
        let boots = [
            "/boot/loader/entries",
            "/efi/loader/entries",
            "/boot/efi/loader/entries",
        ]
        .iter()
        .any(|path| Path::new(path).is_dir());
        Self::of(
            &text.unwrap_or_default(),
            boots && !Path::new("/etc/default/grub").exists(),
        )
    }

    /// By the text of an os-release file.
    pub fn of(os_release: &str, systemd_boot: bool) -> Self {
        let value = |key: &str| {
            os_release.lines().find_map(|line| {
                let rest = line.trim().strip_prefix(key)?.strip_prefix('=')?;
                Some(rest.trim_matches(['"', '\'']).to_owned())
            })
        };
        let ids = format!(
            "{} {}",
            value("ID").unwrap_or_default(),
            value("ID_LIKE").unwrap_or_default()
        );
        // The first that is known decides: ID stands before what it is like.
        let family = ids
            .split_whitespace()
            .find_map(|id| {
                Some(match id {
                    "debian" | "ubuntu" => Family::Debian,
                    "fedora" | "rhel" | "centos" => Family::RedHat,
                    "arch" | "archlinux" => Family::Arch,
                    "suse" | "opensuse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => {
                        Family::Suse
                    }
                    "nixos" => Family::NixOs,
                    _ => return None,
                })
            })
            .unwrap_or(Family::Other);
        let name = value("PRETTY_NAME")
            .or_else(|| value("NAME"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "a Linux that does not say which".into());
        Self {
            name,
            family,
            systemd_boot,
        }
    }

    /// How to put `bpf` among the active security modules. `present` is the list as the kernel has it, and empty
    /// where it cannot be read.
    pub fn bpf_lsm(&self, present: &str) -> String {
        let list = match present.trim() {
            "" => return "mount securityfs first, to see which modules are active: mount -t securityfs none \
                          /sys/kernel/security; then run doctor again"
                .into(),
            // The kernel puts this one first by itself.
            present => {
                let names = present.split(',').map(str::trim);
                let mut names: Vec<&str> = names
                    .filter(|name| !matches!(*name, "" | "capability" | "bpf"))
                    .collect();
                names.push("bpf");
                names.join(",")
            }
        };
        self.boot_parameter(&format!("lsm={list}"))
    }

    /// How to boot with one more parameter.
    pub fn boot_parameter(&self, parameter: &str) -> String {
        match self.family {
            Family::Debian => format!(
                "add {parameter} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot"
            ),
            Family::RedHat => {
                format!("grubby --update-kernel=ALL --args=\"{parameter}\" && reboot")
            }
            Family::Arch if self.systemd_boot => format!(
                "add {parameter} to the line \"options\" of the entry in /boot/loader/entries (or to \
                 /etc/kernel/cmdline, then: mkinitcpio -P), then: reboot"
            ),
            Family::Arch => format!(
                "add {parameter} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: grub-mkconfig -o \
                 /boot/grub/grub.cfg && reboot (with systemd-boot: to \"options\" of the entry in /boot/loader/entries)"
            ),
            Family::Suse => format!(
                "add {parameter} to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub, then: grub2-mkconfig -o \
                 /boot/grub2/grub.cfg && reboot (where systemd-boot boots: to /etc/kernel/cmdline, \
                 then: sdbootutil update-all-entries)"
            ),
            Family::NixOs => format!(
                "boot.kernelParams = [ \"{parameter}\" ]; in configuration.nix, then: nixos-rebuild boot && reboot"
            ),
            Family::Other => {
                format!(
                    "boot with the kernel parameter {parameter}; how is your boot loader's matter"
                )
            }
        }
    }

    /// How to get a kernel that is new enough, or that describes its types.
    pub fn kernel(&self) -> String {
        match self.family {
            Family::Debian => "apt-get update && apt-get install linux-image-amd64 (Ubuntu: linux-generic, or \
                               linux-generic-hwe-* for a newer one), then reboot; on arm64 the packages are named so"
                .into(),
            Family::RedHat => "dnf upgrade kernel && reboot; RHEL 9 or Fedora have a kernel that is new enough".into(),
            Family::Arch => "pacman -Syu linux && reboot".into(),
            Family::Suse => {
                "zypper refresh && zypper update kernel-default && reboot; SLE 15 SP4 or openSUSE Leap 15.4 are new \
                 enough"
                    .into()
            }
            Family::NixOs => {
                "boot.kernelPackages = pkgs.linuxPackages_latest; in configuration.nix, then: nixos-rebuild boot && \
                 reboot"
                    .into()
            }
            Family::Other => {
                "use a kernel of 5.10 or later, built with CONFIG_DEBUG_INFO_BTF=y and CONFIG_BPF_SYSCALL=y".into()
            }
        }
    }

    /// How to have a unified cgroup hierarchy.
    pub fn cgroup2(&self) -> String {
        format!(
            "mount -t cgroup2 none /sys/fs/cgroup for now; for good, with systemd, {}",
            self.boot_parameter("systemd.unified_cgroup_hierarchy=1")
        )
    }

    /// How to lift a lockdown that forbids tracing.
    pub fn lockdown(&self) -> String {
        let by = match self.family {
            Family::Debian | Family::RedHat | Family::Suse => {
                "it comes with Secure Boot on this distribution, or with lockdown= among the boot parameters"
            }
            _ => "it comes with lockdown= among the boot parameters, or with Secure Boot",
        };
        format!(
            "{by}: in the mode integrity guard works, in confidentiality it does not; boot with lockdown=integrity"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: &str = "lockdown,capability,landlock,yama,apparmor";
    const LIST: &str = "lsm=lockdown,landlock,yama,apparmor,bpf";

    fn of(text: &str) -> Distribution {
        Distribution::of(text, false)
    }

    #[test]
    fn each_distribution_is_told_by_its_os_release_and_mended_in_its_own_way() {
        for (text, family, name, says) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
                Family::Debian,
                "Debian GNU/Linux 12 (bookworm)",
                "update-grub && reboot",
            ),
            (
                "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nID=ubuntu\nID_LIKE=debian\n",
                Family::Debian,
                "Ubuntu 24.04.1 LTS",
                "GRUB_CMDLINE_LINUX in /etc/default/grub",
            ),
            (
                "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Family::Debian,
                "Linux Mint",
                "update-grub",
            ),
            (
                "NAME=\"Fedora Linux\"\nID=fedora\nPRETTY_NAME=\"Fedora Linux 43 (Workstation Edition)\"\n",
                Family::RedHat,
                "Fedora Linux 43 (Workstation Edition)",
                "grubby --update-kernel=ALL --args=\"lsm=",
            ),
            (
                "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Family::RedHat,
                "Rocky Linux",
                "grubby",
            ),
            (
                "NAME='Amazon Linux'\nID='amzn'\nID_LIKE='fedora'\n",
                Family::RedHat,
                "Amazon Linux",
                "grubby",
            ),
            (
                "NAME=\"Arch Linux\"\nID=arch\n",
                Family::Arch,
                "Arch Linux",
                "grub-mkconfig -o /boot/grub/grub.cfg",
            ),
            (
                "NAME=\"EndeavourOS\"\nID=endeavouros\nID_LIKE=arch\n",
                Family::Arch,
                "EndeavourOS",
                "grub-mkconfig",
            ),
            (
                "NAME=\"openSUSE Tumbleweed\"\nID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n",
                Family::Suse,
                "openSUSE Tumbleweed",
                "grub2-mkconfig -o /boot/grub2/grub.cfg",
            ),
            (
                "NAME=\"SLES\"\nID=\"sles\"\nID_LIKE=\"suse\"\n",
                Family::Suse,
                "SLES",
                "sdbootutil",
            ),
            (
                "NAME=NixOS\nID=nixos\n",
                Family::NixOs,
                "NixOS",
                "boot.kernelParams = [ \"lsm=",
            ),
            (
                "NAME=\"Alpine Linux\"\nID=alpine\n",
                Family::Other,
                "Alpine Linux",
                "your boot loader's matter",
            ),
            (
                "",
                Family::Other,
                "a Linux that does not say which",
                "boot loader",
            ),
            (
                "# nothing\n\0\nID=",
                Family::Other,
                "a Linux that does not say which",
                "boot loader",
            ),
        ] {
            let here = of(text);
            assert_eq!((here.family, here.name.as_str()), (family, name));
            let mend = here.bpf_lsm(PRESENT);
            assert!(mend.contains(says) && mend.contains(LIST), "{text}: {mend}");
            for mend in [here.kernel(), here.cgroup2(), here.lockdown()] {
                assert!(mend.len() > 20 && !mend.contains('\n'), "{mend}");
            }
        }
    }

    #[test]
    fn arch_with_systemd_boot_has_no_grub_to_change() {
        let mend = Distribution::of("ID=arch\n", true).bpf_lsm(PRESENT);
        assert!(
            mend.contains("/boot/loader/entries") && !mend.contains("grub"),
            "{mend}"
        );
    }

    #[test]
    fn the_list_keeps_what_is_active_and_bpf_is_in_it_once() {
        let mend = of("ID=debian").bpf_lsm("capability,bpf,landlock,\n");
        assert!(mend.contains("lsm=landlock,bpf to"), "{mend}");
        // What cannot be read cannot be kept: the parameter would turn the others off.
        let mend = of("ID=debian").bpf_lsm("");
        assert!(
            !mend.contains("lsm=") && mend.contains("securityfs"),
            "{mend}"
        );
    }
}
