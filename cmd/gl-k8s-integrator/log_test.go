package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// server is a process of `serve` with a GitLab and without a cluster, whose log is a pipe.
type server struct {
	t                 *testing.T
	client            http.Client
	webhooks, metrics string
	token             string
	cmd               *exec.Cmd
	log               *os.File // the reading end
	ended             chan error
}

// startServer runs the program; listeners are further lines of that section of its configuration.
func startServer(t *testing.T, listeners ...string) *server {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users: [{username: root, name: Root, admin: true, password: root-password}]")})
	must(err)
	t.Cleanup(sim.Close)
	var root int64
	sim.World().View(func(v *gitlabsim.View) { root = v.UserByName("root").ID })
	s := &server{t: t, webhooks: freeport.For(t), metrics: freeport.For(t), ended: make(chan error, 1)}
	s.token, err = sim.MintUserIDToken(root, "kubelogin", gitlabsim.TokenOptions{})
	must(err)

	ca, err := localcert.NewAuthority("log")
	must(err)
	pair, err := ca.Server("webhooks")
	must(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.PEM) {
		t.Fatal("no certificate in the PEM")
	}
	s.client = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(s.client.CloseIdleConnections)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "gitlab-ca.crt": string(sim.CA()), "read-token": sim.TokenFor("root", "read_api"),
		"kubeconfig": fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],
  clusters: [{name: a, cluster: {server: "http://%s"}}], users: [{name: a, user: {token: none}}]}`, freeport.For(t)),
		"config.yaml": fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]s, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token}
cluster: {kubeconfig: %[2]s/kubeconfig}
listeners:
  webhooks: {address: "%[3]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}
  metrics: {address: "%[4]s"}
%[5]sauthn: {clientIDs: [kubelogin]}
rbacsync: {mode: plan}
ci: {delivery: none}
`, sim.URL(), dir, s.webhooks, s.metrics, strings.Join(listeners, "")),
	} {
		must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	var end *os.File
	s.log, end, err = os.Pipe()
	must(err)
	t.Cleanup(func() { _ = s.log.Close() })
	s.cmd = exec.Command("gl-k8s-integrator", "serve", "--config", filepath.Join(dir, "config.yaml"), "--log-level", "debug")
	s.cmd.Stdout, s.cmd.Stderr = end, end
	must(s.cmd.Start())
	must(end.Close())
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// logIn reviews the token as kube-apiserver does.
func (s *server) logIn() error {
	body, err := json.Marshal(authnv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Spec: authnv1.TokenReviewSpec{Token: s.token},
	})
	if err != nil {
		return err
	}
	res, err := s.client.Post("https://"+s.webhooks+"/authenticate", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var review authnv1.TokenReview
	if err := json.NewDecoder(res.Body).Decode(&review); err != nil {
		return err
	}
	if !review.Status.Authenticated {
		return errors.New(review.Status.Error)
	}
	return nil
}

// get returns the status and the text of a page of the metrics port.
func (s *server) get(path string) (int, string) {
	s.t.Helper()
	res, err := s.client.Get("http://" + s.metrics + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

var droppedInfo = regexp.MustCompile(`(?m)^gl_k8s_integrator_log_lines_dropped_total\{level="info"\} (\S+)$`)

func (s *server) dropped() float64 {
	s.t.Helper()
	_, text := s.get("/metrics")
	m := droppedInfo.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// works fails the test unless people can log in and the process says that it is ready.
func (s *server) works(when string) {
	s.t.Helper()
	if err := s.logIn(); err != nil {
		s.t.Fatalf("%s: logging in: %v", when, err)
	}
	if code, text := s.get("/readyz"); code != http.StatusOK {
		s.t.Fatalf("%s: /readyz is %d: %s", when, code, text)
	}
}

// logInUntilDropped logs in until more lines than before are dropped.
func (s *server) logInUntilDropped(when string) {
	s.t.Helper()
	before, began := s.dropped(), time.Now()
	for s.dropped() <= before {
		for range 200 {
			if err := s.logIn(); err != nil {
				s.t.Fatalf("%s: logging in: %v", when, err)
			}
		}
		if time.Since(began) > 2*time.Minute {
			s.t.Fatalf("%s: no line was dropped", when)
		}
	}
}

func (s *server) ready() {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if code, _ := s.get("/readyz"); code == http.StatusOK && s.logIn() == nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			s.t.Fatal("not ready")
		}
	}
}

// endsWithin sends SIGTERM.
func (s *server) endsWithin(d time.Duration) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("ended with %v", err)
		}
	case <-time.After(d):
		s.t.Errorf("still there %v after SIGTERM", d)
	}
}

// TestLoginsGoOnWithoutAReaderOfTheLog: one that stops reading, goes on, stops again and is gone at last.
func TestLoginsGoOnWithoutAReaderOfTheLog(t *testing.T) {
	s := startServer(t)
	s.ready()
	s.logInUntilDropped("while nobody reads the log")
	s.works("while nobody reads the log")

	// It goes on: what is read now are whole lines, and one of them says how many are missing.
	var text []byte
	part := make([]byte, 64<<10)
	missing := regexp.MustCompile(`(?m)^\{"time":"[^"]+","level":"WARN","msg":"log lines were dropped","lines":\d+,"cause":"[^"]+"\}$`)
	if err := s.log.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for !missing.Match(text) {
		n, err := s.log.Read(part)
		if err != nil {
			t.Fatalf("the log does not say that lines are missing: %v", err)
		}
		text = append(text, part[:n]...)
	}
	for line := range bytes.Lines(text) {
		if bytes.HasSuffix(line, []byte("\n")) && !json.Valid(line) {
			t.Errorf("not one whole line: %q", line)
		}
	}

	s.logInUntilDropped("when the reader has stopped again")
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
	s.logInUntilDropped("when the reader is gone") // lines that can't be written count too
	s.works("when the reader is gone")
	select {
	case err := <-s.ended:
		t.Fatalf("the process ended with its reader: %v", err)
	default:
	}
	s.endsWithin(15 * time.Second)
}

// TestEndsThoughNobodyReadsTheLog: SIGTERM is not held up by lines that nobody takes.
func TestEndsThoughNobodyReadsTheLog(t *testing.T) {
	s := startServer(t)
	s.ready()
	s.logInUntilDropped("while nobody reads the log")
	s.endsWithin(lastLines + 12*time.Second)
}

// TestLastLinesAreWritten: a reader who takes its time gets all.
func TestLastLinesAreWritten(t *testing.T) {
	s := startServer(t)
	s.ready()
	for range 400 { // more than there is room for in a pipe
		if err := s.logIn(); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.dropped(); n != 0 {
		t.Fatalf("%v lines were dropped", n)
	}
	text := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(s.log)
		text <- b
	}()
	s.endsWithin(30 * time.Second)
	lines := slices.Collect(strings.Lines(string(<-text)))
	reviews := 0
	for _, l := range lines {
		if strings.Contains(l, `"reason":"ok"`) {
			reviews++
		}
	}
	if reviews < 401 {
		t.Errorf("the log has %d reviews, want all 401", reviews)
	}
}
