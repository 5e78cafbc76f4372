//! Files at the paths where a container has them, for processes that are given no others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// All of the machine's own folders are bound into it, but for those that are the container's.
const ENTER: &str = r#"
set -e
root=$1; shift
bind() {
    for path in "$1"/*; do
        name=${path##*/}
        case " $3 " in *" $name "*) continue;; esac
        if [ -L "$path" ]; then [ -L "$2/$name" ] || cp -P "$path" "$2/$name"
        elif [ -d "$path" ]; then mkdir -p "$2/$name"; mount --rbind "$path" "$2/$name"
        fi
    done
}
bind "" "$root" "certs run sds var"
bind /var "$root/var" run
exec chroot "$root" "$@"
"#;

/// What a container, or several of a pod, have at `/certs`, `/sds`, `/run` and `/var/run`, and what lies below.
pub(super) struct FileSystem(PathBuf);

impl FileSystem {
    /// An empty one. Its content is in the folder that `root` will be.
    pub(super) fn at(root: PathBuf) -> Self {
        for folder in ["certs", "run", "sds", "var/run"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        Self(root)
    }

    /// From outside, what has this path inside.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Makes a folder.
    pub(super) fn folder(&self, path: &str) -> PathBuf {
        let folder = self.outside(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// `command` as one that runs there, in a mount namespace of its own.
    pub(super) fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-c", ENTER, "enter"]).arg(&self.0);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

/// Writes the keys of an object.
pub(super) fn write_all<'a>(folder: &Path, files: impl IntoIterator<Item = (&'a String, &'a [u8])>) {
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}
