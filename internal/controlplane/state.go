package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// The names by which the processes of a control plane are found.
const (
	apiServer = "kube-apiserver"
	etcd      = "etcd"
)

// SaveState copies etcd's files into a folder that must not exist yet, while the cluster runs: etcd is stopped in the middle of
// whatever it does, so the copy is what a crash would leave, and etcd starts from that.
func (c *Cluster) SaveState(to string) (err error) {
	p := c.procs[c.index(etcd)]
	if err := p.proc.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stopping etcd for a moment: %w", err)
	}
	defer func() { err = errors.Join(err, p.proc.Signal(syscall.SIGCONT)) }()
	// The signal is delivered later than it is sent.
	for begin := time.Now(); !stopped(p.pid); time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			return errors.New("stopping etcd for a moment: it does not stop")
		}
	}
	if err := os.CopyFS(to, os.DirFS(c.etcdDir())); err != nil {
		return fmt.Errorf("copying etcd's files: %w", err)
	}
	return nil
}

// RestoreState replaces all that the cluster holds by what SaveState has copied, and returns when kube-apiserver is ready again,
// with the same flags and port. Versions of objects go back with it, as with every restored etcd. No other method may be called
// meanwhile.
func (c *Cluster) RestoreState(ctx context.Context, from string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, p := range slices.Backward(c.procs) {
		p.stop(3 * time.Second)
	}
	c.procs = nil
	if err := errors.Join(os.RemoveAll(c.etcdDir()), os.Remove(filepath.Join(c.dir, etcdSocket))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing etcd's files: %w", err)
	}
	if err := os.CopyFS(c.etcdDir(), os.DirFS(from)); err != nil {
		return fmt.Errorf("bringing etcd's files back: %w", err)
	}
	// etcd refuses a folder that others can read.
	if err := os.Chmod(c.etcdDir(), 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return fmt.Errorf("closing etcd's folder to others: %w", err)
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.run(apiServer, c.bins.APIServer, c.flags); err != nil {
		return err
	}
	if err := c.awaitReadyz(ctx); err != nil {
		return err
	}
	return c.startControllers(ctx)
}

func (c *Cluster) etcdDir() string { return filepath.Join(c.dir, "etcd") }

// index finds a process by its name.
func (c *Cluster) index(name string) int {
	return slices.IndexFunc(c.procs, func(p *process) bool { return p.name == name })
}

// startEtcd starts etcd and returns when it listens.
func (c *Cluster) startEtcd(ctx context.Context) error {
	if err := c.run(etcd, c.bins.Etcd, etcdFlags()); err != nil {
		return err
	}
	return c.poll(ctx, "waiting for etcd", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(c.dir, etcdSocket))
		return err == nil, nil
	})
}

// startControllers starts kube-controller-manager and returns when it has made what tenants need.
func (c *Cluster) startControllers(ctx context.Context) error {
	if err := c.run("kube-controller-manager", c.bins.ControllerManager, controllerManagerFlags(c.dir)); err != nil {
		return err
	}
	return c.awaitControllers(ctx)
}
