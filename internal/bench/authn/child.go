//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// child is a measured process.
type child struct {
	url   string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// usage is what a child has used so far.
type usage struct {
	cpu        time.Duration
	rss        int64 // KiB
	goroutines int
}

// start runs this program as one of the servers.
func start(ctx context.Context, role, dir, profiles string, tokens int) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "-role", role, "-dir", dir, "-cpuprofile", profiles, "-tokens", strconv.Itoa(tokens))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
	if !c.lines.Scan() {
		return nil, fmt.Errorf("the %s process did not start: %w", role, cmd.Wait())
	}
	c.url = c.lines.Text()
	return c, nil
}

func (c *child) usage() (u usage, err error) {
	if _, err := fmt.Fprintln(c.stdin); err != nil {
		return u, err
	}
	if !c.lines.Scan() {
		return u, fmt.Errorf("a measured process ended: %w", c.lines.Err())
	}
	var micros int64
	_, err = fmt.Sscan(c.lines.Text(), &micros, &u.rss, &u.goroutines)
	u.cpu = time.Duration(micros) * time.Microsecond
	return u, err
}

// stop ends the process and waits for it.
func (c *child) stop() error {
	_ = c.stdin.Close()
	return c.cmd.Wait()
}

// target is a measured process and who sends to it.
type target struct {
	*child
	client *client
}

// startTarget starts a server and makes a client for it.
func startTarget(ctx context.Context, role, dir string, o options, pool *x509.CertPool, pair tls.Certificate) (*target, error) {
	process, err := start(ctx, role, dir, o.profiles, o.tokens)
	if err != nil {
		return nil, err
	}
	return &target{child: process, client: newClient(process.url, pool, pair)}, nil
}

func (t *target) stop() error {
	t.client.close()
	return t.child.stop()
}
