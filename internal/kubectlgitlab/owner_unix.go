//go:build unix

package kubectlgitlab

import (
	"os"
	"syscall"
)

// keepOwner gives a file the owner of another one, where they differ: root may write somebody's kubeconfig.
func keepOwner(path string, like os.FileInfo) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	have, ok := info.Sys().(*syscall.Stat_t)
	want, wanted := like.Sys().(*syscall.Stat_t)
	if !ok || !wanted || (have.Uid == want.Uid && have.Gid == want.Gid) {
		return nil
	}
	return os.Chown(path, int(want.Uid), int(want.Gid))
}
