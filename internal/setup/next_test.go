package setup_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/demo"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

// install is one installation, in a folder of its own, on a machine that others may have been on before.
type install struct {
	*machine
	dir, etc     string
	distribution string
	started      time.Time
	commands     int
}

const execInPod = "kubectl -n gl-k8s-integrator exec deployment/gl-k8s-integrator -- /gl-k8s-integrator "

// manifests are static pods as kubeadm has them, and as somebody else may: flags in command, and in args.
var manifests = map[string]string{
	setup.Kubeadm:   `{apiVersion: v1, kind: Pod, metadata: {name: kube-apiserver}, spec: {containers: [{name: kube-apiserver, command: [kube-apiserver, "--authorization-mode=Node,RBAC"]}]}}`,
	setup.StaticPod: `{apiVersion: v1, kind: Pod, metadata: {name: kube-apiserver}, spec: {containers: [{name: logger}, {name: kube-apiserver, command: [kube-apiserver], args: ["--authorization-mode=Node,RBAC"]}]}}`,
}

// TestNextPageIsEnough: for each distribution and each way of running, whoever runs init and then each command of NEXT.md in its
// order, has in mode enforce a login, a reason for a refusal, a job that deploys, and a hook. kube-apiserver gets exactly what the
// distribution's file says.
func TestNextPageIsEnough(t *testing.T) {
	m := newMachine(t)
	for _, distribution := range []string{setup.Kubeadm, setup.K3s, setup.Flags} {
		ok := t.Run(distribution, func(t *testing.T) {
			i := m.install(t, distribution, "systemd", "--run systemd")
			i.follow(t)
			if distribution == setup.Kubeadm {
				i.upgradesKeepIt(t)
				i.authorityChanges(t)
			}
		})
		if !ok {
			return // what comes next is on the same machine
		}
		m.end()
	}
	m.fitsNot(t)
}

// TestNextPageOfPods is the same with pods from manifests, and certificates of cert-manager.
func TestNextPageOfPods(t *testing.T) {
	m := newMachine(t)
	m.node(t)
	m.certManager(t)
	m.issuerForHooks(t)
	i := m.install(t, setup.RKE2, "pods", "--run in-cluster --certificates cert-manager --image registry.example.com/x:1 --apiserver-url "+m.cluster.URL())
	i.follow(t)
	i.renews(t)
}

// TestNextPageWithHelm is the same with pods from the chart, by the real helm, and certificates of our own.
func TestNextPageWithHelm(t *testing.T) {
	m := newMachine(t)
	m.node(t)
	m.withHelm(t)
	i := m.install(t, setup.StaticPod, "chart", "--run in-cluster --install chart --image registry.example.com:5000/x:1 --apiserver-url "+m.cluster.URL())
	i.follow(t)
	i.renews(t)
}

func (m *machine) install(t *testing.T, distribution, name, more string) *install {
	t.Helper()
	before, err := filepath.Glob(filepath.Join(m.root, "etc-*"))
	if err != nil {
		t.Fatal(err)
	}
	if distribution == setup.Kubeadm || distribution == setup.StaticPod {
		m.write(t, "kube-apiserver.yaml", manifests[distribution])
	}
	id := distribution + "-" + name
	// kube-apiserver can't read the files of the installation before, should a flag of this one be missing.
	t.Cleanup(func() {
		for _, dir := range before {
			_ = os.RemoveAll(dir)
		}
	})
	i := &install{machine: m, dir: filepath.Join(m.root, "new-"+id), etc: filepath.Join(m.root, "etc-"+id), distribution: distribution}
	i.init(t, more)
	return i
}

// init runs the command with all flags, and reads what it prints.
func (i *install) init(t *testing.T, more string) {
	t.Helper()
	i.started = time.Now()
	_, err := i.kube.CoreV1().Namespaces().Get(t.Context(), "gl-k8s-integrator", metav1.GetOptions{})
	first := err != nil
	flags := []string{
		"gl-k8s-integrator init", i.dir, "--gitlab", i.gitlab.URL(), "--gitlab-ca-file", i.write(t, "gitlab-ca.pem", string(i.gitlab.CA())),
		"--client-id kubelogin-demo --distribution", i.distribution, more,
		"--read-token-file", i.write(t, "read", i.gitlab.TokenFor("root", "read_api")), "--write-token-file", i.write(t, "write", i.gitlab.TokenFor("root", "api")),
		"--webhook-address", net.JoinHostPort(i.ip, "8443"), "--hooks-url", "https://" + net.JoinHostPort(i.ip, "8444") + "/hooks/gitlab",
		"--apiserver-dir", filepath.Join(i.etc, "kube-apiserver"),
	}
	if strings.Contains(more, "systemd") {
		flags = append(flags, "--config-dir", filepath.Join(i.etc, "integrator"), "--hooks-listen", net.JoinHostPort(i.ip, "8444"), "--metrics-listen", net.JoinHostPort(i.ip, "9090"))
	}
	out := i.run(t, i.root, strings.Join(flags, " "))
	for _, want := range []string{"Kubernetes is v1.37", "GitLab is 19.1.0-ee", "--read-token-file: the token of root, an administrator, scopes read_api, has no end", "crt` ends on "} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		other := strings.Contains(line, "this is not k3s") || strings.Contains(line, "this is not rke2") || (!first && strings.Contains(line, "is there already"))
		if strings.HasPrefix(line, "warning") && !other {
			t.Errorf("it warns: %s", line)
		}
	}
}

// flags are those that the distribution starts kube-apiserver with, by the file that it reads.
func (i *install) flags(t *testing.T) []string {
	t.Helper()
	at := map[string]string{
		setup.Kubeadm: filepath.Join(i.root, "kube-apiserver.yaml"), setup.StaticPod: filepath.Join(i.root, "kube-apiserver.yaml"),
		setup.K3s:  filepath.Join(i.root, "etc/rancher/k3s/config.yaml.d/gl-k8s-integrator.yaml"),
		setup.RKE2: filepath.Join(i.root, "etc/rancher/rke2/config.yaml.d/gl-k8s-integrator.yaml"), setup.Flags: filepath.Join(i.dir, "flags.txt"),
	}[i.distribution]
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	switch i.distribution {
	case setup.Kubeadm, setup.StaticPod:
		var p corev1.Pod
		if err := yaml.UnmarshalStrict(text, &p); err != nil {
			t.Fatal(err)
		}
		c := p.Spec.Containers[len(p.Spec.Containers)-1]
		return slices.DeleteFunc(slices.Concat(c.Command, c.Args), func(f string) bool { return f == "kube-apiserver" })
	case setup.K3s, setup.RKE2: // "each argument with -- in front": docs.k3s.io, docs.rke2.io
		var c struct {
			Args []string `json:"kube-apiserver-arg+"`
		}
		if err := yaml.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		for j := range c.Args {
			c.Args[j] = "--" + c.Args[j]
		}
		return c.Args
	}
	return strings.Fields(string(text))
}

// await asks until it is so.
func await(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// section is a step of a NEXT.md.
type section struct{ title, command string }

func sections(t *testing.T, dir string) []section {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(dir, "NEXT.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out []section
	for _, s := range strings.Split(string(page), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		_, title, numbered := strings.Cut(title, ". ")
		if !numbered {
			continue
		}
		next := section{title: title}
		if c := regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindStringSubmatch(text); c != nil {
			next.command = c[1]
		}
		out = append(out, next)
	}
	return out
}

// follow does what NEXT.md says, in its order, and what happens by itself on a real machine: kube-apiserver starts again, and
// somebody gives GitLab the CA of the hooks.
func (i *install) follow(t *testing.T) {
	t.Helper()
	for _, s := range sections(t, i.dir) {
		switch s.title {
		case "GitLab's system hook":
			ca, err := os.ReadFile(filepath.Join(i.dir, "gitlab/hooks-ca.crt"))
			if err != nil || !i.hookCAs.AppendCertsFromPEM(ca) {
				t.Fatalf("the CA of the hooks: %v", err)
			}
		case "kube-apiserver":
			await(t, "the integrator is ready", i.ready)
		}
		if s.command != "" {
			i.commands++
			i.do(t, i.dir, s.command)
		}
		if s.title == "kube-apiserver" {
			i.restart(t, i.flags(t)...)
		}
	}
	if i.commands == 0 || i.commands > 8 {
		t.Errorf("%d commands", i.commands)
	}
	i.enforces(t)
	i.bench(t)
}

func (i *install) restart(t *testing.T, flags ...string) {
	t.Helper()
	flags = slices.DeleteFunc(flags, func(f string) bool { return strings.HasPrefix(f, "--authorization-mode") })
	if err := i.cluster.RestartAPIServer(t.Context(), flags...); err != nil {
		t.Fatal(err)
	}
}

// do runs one command, with paths of this test in place of the machine's.
func (i *install) do(t *testing.T, dir, command string) {
	t.Helper()
	if rest, ok := strings.CutPrefix(command, execInPod); ok {
		command = "gl-k8s-integrator " + strings.ReplaceAll(rest, "/etc/gl-k8s-integrator/", i.root+"/pod/")
	}
	command = strings.NewReplacer("/etc/kubernetes/manifests/", i.root+"/", "/etc/rancher/", i.root+"/etc/rancher/").Replace(command)
	begun := time.Now()
	out, err := i.shell(t, dir, command)
	t.Logf("%.1f s: %s", time.Since(begun).Seconds(), command)
	exit := new(exec.ExitError)
	if planned := errors.As(err, &exit) && exit.ExitCode() == 2 && strings.Contains(command, " plan "); err != nil && !planned {
		t.Fatalf("%s: %v\n%s\nlog of the integrator:\n%s", command, err, out, tail(filepath.Join(i.root, "log")))
	}
}

// enforces: what a person, a job and a hook see.
func (i *install) enforces(t *testing.T) {
	t.Helper()
	await(t, "the namespace haw", func(ctx context.Context) bool {
		_, err := i.kube.CoreV1().Namespaces().Get(ctx, "haw", metav1.GetOptions{})
		return err == nil
	})
	i.aliceLogsIn(t)
	i.deploys(t)
	i.hookBrings(t)
}

// bench prints what a newcomer waits for, without their own reading.
func (i *install) bench(t *testing.T) {
	name := strings.TrimPrefix(filepath.Base(i.dir), "new-")
	took := time.Since(i.started)
	t.Logf("BENCH init.%s_seconds %.1f s", name, took.Seconds())
	t.Logf("BENCH init.%s_commands %d commands", name, i.commands)
	if took > 10*time.Minute {
		t.Errorf("it took %v", took)
	}
}

// upgradesKeepIt: what `kubeadm upgrade` makes kube-apiserver from has our flags and files.
func (i *install) upgradesKeepIt(t *testing.T) {
	t.Helper()
	cm, err := i.kube.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kubeadm-config", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := cm.Data["ClusterConfiguration"]
	if !strings.Contains(text, "extraVolumes") || !strings.Contains(text, "name: authorization-config") || !strings.Contains(text, "kubernetesVersion: v1.37.2") {
		t.Errorf("kubeadm has\n%s", text)
	}
}

// aliceLogsIn with a token that kube-apiserver has not seen before.
func (i *install) aliceLogsIn(t *testing.T) {
	t.Helper()
	token, err := demo.Login(t.Context(), i.gitlab.Client(), i.gitlab.URL(), "alice", "alice-password")
	if err != nil {
		t.Fatal(err)
	}
	own, err := kubernetes.NewForConfig(&rest.Config{Host: i.cluster.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: i.cluster.CA()}})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "alice is let in", func(ctx context.Context) bool {
		me, err := own.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil && me.Status.UserInfo.Username == kubename.User(i.alice())
	})
	await(t, "alice makes a ConfigMap", func(ctx context.Context) bool {
		_, err := own.CoreV1().ConfigMaps("haw").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "mine-"}}, metav1.CreateOptions{})
		return err == nil
	})
	await(t, "a refusal is explained", func(ctx context.Context) bool {
		_, err = own.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		return err != nil && strings.Contains(err.Error(), "gitlab:")
	})
}

// deploys runs the job of haw/world, as GitLab's runner does, until it deploys: its variables come when everything was read.
func (i *install) deploys(t *testing.T) {
	t.Helper()
	home := filepath.Join(i.root, "job")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	var log string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last job:\n%s", log)
		}
	})
	_ = i.kube.AppsV1().Deployments("haw-world").Delete(t.Context(), "world", metav1.DeleteOptions{})
	await(t, "the job deploys", func(ctx context.Context) bool {
		res, err := runner.Run(ctx, i.gitlab, runner.Job{
			ProjectID: i.project(), Ref: "main", JobName: "deploy", TriggeredBy: i.alice(), Timeout: time.Minute,
			Env: []string{"PATH=" + filepath.Dir(i.cluster.Kubectl()) + ":/usr/bin:/bin", "HOME=" + home},
		})
		if err != nil {
			log = err.Error()
			return false
		}
		log = res.Log
		_, err = i.kube.AppsV1().Deployments("haw-world").Get(ctx, "world", metav1.GetOptions{})
		return res.Status == "success" && err == nil
	})
}

// hookBrings: a new group has its namespace long before the next round, which begins five minutes after the one before.
func (i *install) hookBrings(t *testing.T) {
	t.Helper()
	name := strings.ReplaceAll(strings.TrimPrefix(filepath.Base(i.dir), "new-"), "_", "-")
	_, err := i.gitlab.World().AddGroup(gitlabsim.Group{
		Path: name, Name: name, Visibility: "private",
		Members: []gitlabsim.Member{{UserID: i.alice(), Level: gitlabsim.Owner}},
	})
	if err != nil {
		t.Fatal(fmt.Errorf("making a group: %w", err))
	}
	await(t, "the namespace "+name, func(ctx context.Context) bool {
		_, err := i.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		return err == nil
	})
}

// renewalOf does what the NEXT.md of the newest renewal of a folder says; people log in after each step of it.
func (i *install) renewalOf(t *testing.T, dir string, stepped func(title string)) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "renewed-*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no renewal: %v", err)
	}
	slices.Sort(all)
	newest := all[len(all)-1]
	for _, s := range sections(t, newest) {
		if s.command != "" {
			i.do(t, newest, s.command)
		}
		if s.title == "kube-apiserver starts again" {
			i.restart(t)
		}
		stepped(s.title)
	}
}

// renews: new certificates of the same authority reach both sides, and people log in all the while.
func (i *install) renews(t *testing.T) {
	t.Helper()
	i.do(t, i.root, "gl-k8s-integrator init renew "+i.dir)
	i.renewalOf(t, i.dir, func(string) { i.aliceLogsIn(t) })
}

// authorityChanges: an authority that is nine years old has a successor, which everybody trusts; a renewal signs with it. The
// integrator has the new certificates while kube-apiserver still runs with what it read before, and people log in all the while.
func (i *install) authorityChanges(t *testing.T) {
	t.Helper()
	answers, err := setup.LoadAnswers(filepath.Join(i.dir, "answers.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	answers.Kubeconfig = i.cluster.AdminKubeconfig()
	old := filepath.Join(i.root, "nine-years-ago")
	const year = 365 * 24 * time.Hour
	now := time.Now()
	if err := setup.Init(t.Context(), old, answers, now.Add(-year*92/10), io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := setup.Renew(t.Context(), old, "", now.Add(-year/2), io.Discard); err != nil {
		t.Fatal(err)
	}
	i.renewalOf(t, old, func(string) {})
	before := i.authority(t, "kube-apiserver/webhook-ca.crt", 0)
	i.awaitIssuer(t, before)
	i.aliceLogsIn(t)

	i.run(t, i.root, "gl-k8s-integrator init renew "+old)
	i.renewalOf(t, old, func(title string) {
		after := i.authority(t, "kube-apiserver/webhook-ca.crt", 0)
		if before.Equal(after) {
			t.Error("the authority is the old one")
		}
		i.awaitIssuer(t, after)
		t.Logf("after %q", title)
		i.aliceLogsIn(t)
	})
}

// authority is one of those in a file of the machine.
func (i *install) authority(t *testing.T, name string, n int) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.etc, name))
	if err != nil {
		t.Fatal(err)
	}
	all := parse(t, text)
	if len(all) < 2 {
		t.Errorf("%s has %d authorities, want both", name, len(all))
	}
	return all[n]
}

// awaitIssuer waits until the integrator shows a certificate by the authority.
func (i *install) awaitIssuer(t *testing.T, ca *x509.Certificate) {
	t.Helper()
	await(t, "the integrator has the certificate of "+ca.Subject.CommonName, func(ctx context.Context) bool {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it looks at what it gets
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(i.ip, "8443"))
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].CheckSignatureFrom(ca) == nil
	})
}
