//! Files as the kubelet mounts an object: links to what lies below a link that is replaced.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// A directory with the keys of a Secret or a ConfigMap.
pub(crate) struct Mount {
    path: PathBuf,
    versions: AtomicUsize,
}

impl Mount {
    /// One in `path`, which is made if it is missing. It holds nothing yet.
    pub(crate) fn at(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        Self { path, versions: AtomicUsize::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces all files at once.
    pub(crate) fn swap<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        let version = PathBuf::from(format!("..{}", self.versions.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(self.path.join(&version)).unwrap();
        let mut names = Vec::new();
        for (name, content) in files {
            fs::write(self.path.join(&version).join(name), content).unwrap();
            names.push(name);
        }
        symlink(&version, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        for name in names {
            let link = self.path.join(name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
    }
}
