package controlplane

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// process is one running program of the control plane.
type process struct {
	name string
	log  string // path of the file with what it prints
	pid  int
	proc *os.Process
	done chan struct{} // closed when it has ended and been waited for
	err  error         // how it ended; to be read after done
}

// startProcess starts a program whose output goes to the file log.
//
// One goroutine, locked to its thread, starts and awaits the child: Linux sends the parent-death signal
// (procAttr) when the THREAD that started the child ends, so that thread has to live as long as the child does.
func startProcess(name, bin string, args []string, dir, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	p := &process{name: name, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// Not exec.CommandContext: the process outlives the context of Start and ends by stop.
		cmd := exec.Command(bin, args...) //nolint:noctx // see above
		cmd.Dir = dir
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = procAttr()
		err := cmd.Start()
		_ = out.Close()
		if err == nil {
			p.proc, p.pid = cmd.Process, cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

// ended says whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process: by request, and after grace by force. It returns once the process is gone.
func (p *process) stop(grace time.Duration) {
	_ = p.proc.Signal(syscall.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		_ = p.proc.Kill()
		<-p.done
	}
}

// failure is the error of a process that ended by itself, with the end of what it printed.
func (p *process) failure() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended by itself (%s); its last lines:\n%s", p.name, how, tailFile(p.log, 15))
}

// watchdog is a shell that kills the processes it was told of as soon as this process is gone: it reads a pipe
// whose other end the kernel closes with us. Systems without a parent-death signal need it.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// It ignores what a terminal sends to everybody, so that it is still there when we die of that.
const watchdogScript = `trap '' HUP INT TERM; pids=
while read -r word; do
  [ "$word" = done ] && exit 0
  pids="$pids $word"
done
[ -z "$pids" ] || kill -9 $pids`

func startWatchdog() (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making the watchdog's pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command("sh", "-c", watchdogScript) //nolint:noctx // lives until dismiss, or until we are gone
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("starting the watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

func (w *watchdog) guard(pid int) error {
	if _, err := w.pipe.WriteString(strconv.Itoa(pid) + "\n"); err != nil {
		return fmt.Errorf("telling the watchdog of a process: %w", err)
	}
	return nil
}

// dismiss ends the watchdog without killing anybody.
func (w *watchdog) dismiss() {
	_, _ = w.pipe.WriteString("done\n")
	_ = w.pipe.Close()
	_ = w.cmd.Wait()
}
