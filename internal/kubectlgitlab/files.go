package kubectlgitlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lockWait is how long another program may write a kubeconfig: kubectl needs milliseconds, a lock that is older was left
// behind by one that was killed.
const lockWait = 5 * time.Second

// files are the kubeconfigs that kubectl would merge, in the order in which they count.
type files []file

type file struct {
	path   string
	config *clientcmdapi.Config
}

// load reads each file by itself; those that are not there are left out.
func (o *options) load() (files, error) {
	var out files
	for _, path := range o.rules().GetLoadingPrecedence() {
		config, err := clientcmd.LoadFromFile(path)
		if errors.Is(err, fs.ErrNotExist) || path == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %s: %w", path, err)
		}
		out = append(out, file{path, config})
	}
	return out, nil
}

// with returns the file whose entry counts: the first that has it.
func (f files) with(has func(*clientcmdapi.Config) bool) (file, bool) {
	i := slices.IndexFunc(f, func(one file) bool { return has(one.config) })
	if i < 0 {
		return file{}, false
	}
	return f[i], true
}

// change changes kubeconfigs: plan says which files it changed in memory. It is called twice, the second time under the
// locks of those files, so that what others write meanwhile is kept. Comments in the files are lost, as by kubectl config.
func (o *options) change(ctx context.Context, plan func(files) ([]string, error)) (err error) {
	have, err := o.load()
	if err != nil {
		return err
	}
	paths, err := plan(have)
	if err != nil {
		return err
	}
	slices.Sort(paths) // as kubectl does, so that two programs don't wait for each other
	paths = slices.Compact(paths)
	for _, path := range paths {
		if err := writable(path); err != nil {
			return err
		}
	}
	for _, path := range paths {
		unlock, err := lock(ctx, path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if have, err = o.load(); err != nil {
		return err
	}
	now, err := plan(have)
	if err != nil {
		return err
	}
	for _, path := range now {
		if !slices.Contains(paths, path) {
			return fmt.Errorf("%s was changed by another program at the same time: try again", path)
		}
	}
	for _, one := range have {
		if slices.Contains(now, one.path) {
			if err := replace(one.path, one.config); err != nil {
				return fmt.Errorf("writing the kubeconfig %s: %w", one.path, err)
			}
		}
	}
	return nil
}

// writable refuses a file that is not to be written, before anything is.
func writable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at the kubeconfig: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_ = f.Close() // nothing was written
	}
	if err != nil || info.Mode().Perm()&0o200 == 0 {
		return fmt.Errorf("the kubeconfig %s is read-only: make it writable, or copy it and name the copy in KUBECONFIG", path)
	}
	return nil
}

// lock takes the lock that kubectl takes (clientcmd.ModifyConfig): a file beside the kubeconfig.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	name := path + ".lock"
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			return func() error { return os.Remove(name) }, f.Close()
		}
		// Windows says that access is denied while another program removes its lock.
		if _, there := os.Lstat(name); there != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("locking the kubeconfig %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another program writes the kubeconfig %s: try again; if none does, remove %s", path, name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// replace writes a file as a whole or not at all, with the mode and owner that it has; of a symbolic link it writes what it
// points to.
func replace(path string, config *clientcmdapi.Config) (err error) {
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Chmod(f.Name(), info.Mode().Perm())
	}
	if err == nil {
		err = keepOwner(f.Name(), info)
	}
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	return err
}
