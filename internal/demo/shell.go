package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// commandTimeout bounds every command of the story.
const commandTimeout = 60 * time.Second

// Report is where a step tells what it does and finds. Its methods can be used from one goroutine at a time.
type Report struct {
	out    io.Writer
	failed []string
	secret func(string) string // hides credentials in output
}

// untilDone drops what is written once the story is interrupted: what a step finds then proves nothing.
type untilDone struct {
	w    io.Writer
	done <-chan struct{}
}

func (u untilDone) Write(p []byte) (int, error) {
	select {
	case <-u.done:
		return len(p), nil
	default:
		return u.w.Write(p)
	}
}

// Say prints a sentence of the story.
func (r *Report) Say(format string, args ...any) {
	fmt.Fprintf(r.out, "   %s\n", fmt.Sprintf(format, args...))
}

// Check prints a verdict and remembers it.
func (r *Report) Check(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if ok {
		fmt.Fprintf(r.out, "   ✓ %s\n", text)
		return
	}
	fmt.Fprintf(r.out, "   ✗ %s\n", text)
	r.failed = append(r.failed, text)
}

// Fail is Check for an error that keeps a step from going on.
func (r *Report) Fail(doing string, err error) { r.Check(err == nil, "%s: %v", doing, err) }

// output is what a command printed and how it ended.
type output struct {
	text string
	code int
}

func (o output) has(words ...string) bool {
	for _, w := range words {
		if !strings.Contains(o.text, w) {
			return false
		}
	}
	return true
}

// user is somebody at a terminal: a name for the prompt and a kubeconfig.
type user struct {
	name       string
	kubeconfig string
}

// run executes kubectl as that person and shows command and output as a terminal would.
func (e *Env) run(ctx context.Context, r *Report, p user, args ...string) output {
	fmt.Fprintf(r.out, "   %s$ kubectl %s\n", p.name, strings.Join(quoted(args), " "))
	o := e.kubectl(ctx, p, args...)
	r.show(o.text)
	return o
}

// kubectl executes kubectl as that person, in the folder with deploy_new.yaml.
func (e *Env) kubectl(ctx context.Context, p user, args ...string) output {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Cluster.Kubectl(), args...)
	cmd.Dir = e.work
	cmd.Env = []string{"KUBECONFIG=" + p.kubeconfig, "HOME=" + e.home, "PATH=/usr/bin:/bin"}
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C ends the story, not this one command
	err := cmd.Run()
	o := output{text: text.String(), code: cmd.ProcessState.ExitCode()}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		o.text += err.Error() + "\n"
	}
	return o
}

// show prints a command's output, indented.
func (r *Report) show(text string) {
	for line := range strings.Lines(r.secret(text)) {
		fmt.Fprintf(r.out, "   │ %s\n", strings.TrimRight(line, "\n"))
	}
}

// quoted quotes arguments as a shell needs them.
func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'{}$*;|&<>()") {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return out
}

// eventually tries until it works or the time is over. It returns how long it took.
func eventually(ctx context.Context, limit time.Duration, try func() bool) (time.Duration, bool) {
	start := time.Now()
	for {
		if try() {
			return time.Since(start), true
		}
		if time.Since(start) > limit || ctx.Err() != nil {
			return time.Since(start), false
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// syncBuffer collects the log of the running program while steps read it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
