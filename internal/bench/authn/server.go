//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// serveWebhook is the measured process: the program's own wiring, log and metrics, with the log in a file.
func serveWebhook(ctx context.Context, o options) error {
	cfg, err := config.Load(filepath.Join(o.dir, "config.yaml"))
	if err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(o.dir, "webhook.log"))
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	return serving(ctx, o, func(ctx context.Context, bound func(string)) error {
		return app.ServeAuthn(ctx, cfg, o.tokens, app.NewLogger(logFile, slog.LevelInfo), bound)
	})
}

// nullAnswer is as long as an answer of the webhook.
const nullAnswer = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{},"status":{"authenticated":true,"user":{"username":"gitlab:42","uid":"42","groups":["gitlab:users"],"extra":{"gl-k8s-integrator.io/gitlab-username":["user42"]}}}}`

// serveNull is the constant handler.
func serveNull(ctx context.Context, o options) error {
	return serving(ctx, o, func(ctx context.Context, bound func(string)) error {
		pair, err := tls.LoadX509KeyPair(filepath.Join(o.dir, "tls.crt"), filepath.Join(o.dir, "tls.key"))
		if err != nil {
			return err
		}
		ca, err := os.ReadFile(filepath.Join(o.dir, "ca.crt"))
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		config := &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			return err
		}
		answer := []byte(nullAnswer)
		s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(answer)
		})}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		bound("https://" + l.Addr().String())
		<-ctx.Done()
		err = s.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
}

// serving runs a server until standard input ends and answers the questions that arrive there.
func serving(ctx context.Context, o options, serve func(ctx context.Context, bound func(string)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.profiles != "" {
		f, err := os.Create(filepath.Join(o.profiles, o.role+".cpu"))
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer func() { pprof.StopCPUProfile(); _ = f.Close() }()
	}
	go func() {
		defer cancel()
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Fprintf(os.Stdout, "%d %d %d\n", cpu().Microseconds(), rssKiB(), runtime.NumGoroutine())
		}
	}()
	err := serve(ctx, func(url string) { fmt.Fprintln(os.Stdout, url) })
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// cpu is the time this process has used, in user and system mode.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rssKiB is the memory of this process that is resident now; where the kernel does not tell, what Go holds.
func rssKiB() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.Sys / 1024)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}
