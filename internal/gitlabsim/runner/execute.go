package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	buildFolder       = "build"
	filesFolder       = buildFolder + ".tmp" // beside the build folder, as the real runner has it
	afterScriptLimit  = 5 * time.Minute
	reapLimit         = 5 * time.Second // how long killed processes may take to go
	statusSuccess     = "success"
	statusFailed      = "failed"
	killedExitCode    = -1
	mainScript, after = "script.sh", "after_script.sh"
)

// shell runs a job as a runner with the shell executor does: whether it runs, and with which variables, has been decided.
type shell struct {
	jobID   int64
	files   map[string]string // of the ref, by name
	env     []string          // of the machine
	timeout time.Duration     // of the job without its after_script
}

// run writes the files of the job into an empty folder and runs its scripts there.
func (s *shell) run(ctx context.Context, conf *config, vars *collection, dir string) (Result, error) {
	result := Result{JobID: s.jobID, Status: statusFailed, ExitCode: killedExitCode, Variables: vars.keys()}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return result, fmt.Errorf("opening the folder of the job: %w", err)
	}
	defer func() { _ = root.Close() }()
	if err := s.checkout(root); err != nil {
		return result, err
	}
	env, secrets, err := environ(root, dir, vars)
	if err != nil {
		return result, err
	}
	log := newMasker(secrets)
	finish := func(err error) (Result, error) {
		result.Log = log.String()
		return result, err
	}
	commands := append(append([]string{}, conf.beforeScript...), conf.script...)
	if err := root.WriteFile(filepath.Join(filesFolder, mainScript), []byte(script(commands)), 0o600); err != nil {
		return finish(fmt.Errorf("writing the script: %w", err))
	}

	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	base := append(append([]string{}, s.env...), env...)
	result.ExitCode, err = bash(limited, log, dir, mainScript, base)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(log, "ERROR: Job failed: canceled")
		return finish(ctx.Err())
	case limited.Err() != nil:
		fmt.Fprintf(log, "ERROR: Job failed: execution took longer than %s\n", s.timeout)
		return finish(nil)
	case err != nil:
		return finish(err)
	case result.ExitCode == 0:
		result.Status = statusSuccess
	}
	if len(conf.afterScript) > 0 {
		if err := root.WriteFile(filepath.Join(filesFolder, after), []byte(script(conf.afterScript)), 0o600); err != nil {
			return finish(fmt.Errorf("writing the after_script: %w", err))
		}
		fmt.Fprintln(log, "Running after_script")
		short, cancel := context.WithTimeout(ctx, afterScriptLimit)
		defer cancel()
		// Its outcome does not count.
		if _, err := bash(short, log, dir, after, append(base, "CI_JOB_STATUS="+result.Status)); err != nil {
			return finish(err)
		}
		if ctx.Err() != nil {
			return finish(ctx.Err())
		}
	}
	if result.Status == statusSuccess {
		fmt.Fprintln(log, "Job succeeded")
	} else {
		fmt.Fprintf(log, "ERROR: Job failed: exit status %d\n", result.ExitCode)
	}
	return finish(nil)
}

// checkout writes the files of the ref. Their names come from a repository: os.Root keeps them in the folder.
func (s *shell) checkout(root *os.Root) error {
	for _, folder := range []string{buildFolder, filesFolder} {
		if err := root.Mkdir(folder, 0o700); err != nil {
			return fmt.Errorf("making the folder of the job: %w", err)
		}
	}
	build, err := root.OpenRoot(buildFolder)
	if err != nil {
		return fmt.Errorf("opening the folder of the job: %w", err)
	}
	defer func() { _ = build.Close() }()
	for name, content := range s.files {
		if err := build.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return fmt.Errorf("checking out %q: %w", name, err)
		}
		if err := build.WriteFile(name, []byte(content), 0o700); err != nil {
			return fmt.Errorf("checking out %q: %w", name, err)
		}
	}
	return nil
}

// environ turns variables into an environment; file variables become files that only this user can read. It also returns
// what must not appear in the log.
func environ(root *os.Root, dir string, vars *collection) (env, secrets []string, err error) {
	vars.paths = map[string]string{}
	for _, key := range vars.keys() {
		if vars.byKey[key].file {
			vars.paths[key] = filepath.Join(dir, filesFolder, key)
		}
	}
	for _, key := range vars.keys() {
		value, err := vars.value(key)
		if err != nil {
			return nil, nil, err
		}
		v := vars.byKey[key]
		if v.masked {
			secrets = append(secrets, value)
		}
		if v.file {
			if err := root.WriteFile(filepath.Join(filesFolder, key), []byte(value), 0o600); err != nil {
				return nil, nil, fmt.Errorf("writing file variable %s: %w", key, err)
			}
			value = vars.paths[key]
		}
		if strings.ContainsRune(value, 0) {
			return nil, nil, fmt.Errorf("variable %s contains a NUL byte", key)
		}
		env = append(env, key+"="+value)
	}
	return env, secrets, nil
}

// script echoes each command before it runs. Of a command of several lines the log shows the first, as GitLab's does.
func script(commands []string) string {
	var b strings.Builder
	for _, c := range commands {
		shown, _, more := strings.Cut(strings.TrimRight(c, "\n"), "\n")
		if more {
			shown += " # collapsed multi-line command"
		}
		fmt.Fprintf(&b, "printf '%%s\\n' %s\n%s\n", quote("$ "+shown), c)
	}
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bash runs one script in a process group of its own and returns its exit code. When it returns, the group is gone: at the
// end of ctx it is killed, and what the script left in the background is killed when the script ends.
func bash(ctx context.Context, log io.Writer, dir, name string, env []string) (int, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return killedExitCode, fmt.Errorf("making a pipe for the log: %w", err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command("bash", "-eo", "pipefail", filepath.Join(dir, filesFolder, name)) //nolint:noctx // running scripts is the job; ctx ends the whole group below
	cmd.Dir, cmd.Env = filepath.Join(dir, buildFolder), env
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		return killedExitCode, fmt.Errorf("starting bash: %w", err)
	}
	group := -cmd.Process.Pid
	copied, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(log, out) // ends when the last process has closed the pipe, or at the deadline below
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			_ = syscall.Kill(group, syscall.SIGKILL)
		case <-ended:
		}
	}()
	waitErr := cmd.Wait()
	close(ended)
	<-watched
	awaitGroup(group)
	_ = out.SetReadDeadline(time.Now().Add(reapLimit)) // a process that left the group may hold the pipe
	<-copied

	var exit *exec.ExitError
	switch {
	case waitErr == nil:
		return 0, nil
	case errors.As(waitErr, &exit):
		return exit.ExitCode(), nil // -1 after a signal
	default:
		return killedExitCode, fmt.Errorf("waiting for bash: %w", waitErr)
	}
}

// awaitGroup kills what is left of a process group and waits until the kernel knows it no more.
func awaitGroup(group int) {
	deadline := time.Now().Add(reapLimit)
	for time.Now().Before(deadline) {
		if errors.Is(syscall.Kill(group, syscall.SIGKILL), syscall.ESRCH) {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
