package setup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

type file struct {
	data []byte
	mode fs.FileMode
}

// folder is what is to be written, by path with slashes.
type folder map[string]file

func (f folder) add(path string, data []byte, mode fs.FileMode) { f[path] = file{data, mode} }

// names are the sorted paths below a prefix.
func (f folder) names(prefix string) []string {
	var out []string
	for p := range f {
		if strings.HasPrefix(p, prefix) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// write makes the folder as a whole, or not at all. It has to be new, or empty.
func (f folder) write(dir string) (err error) {
	switch entries, err := os.ReadDir(dir); {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("%s holds something already, and nothing is overwritten: name a new folder", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking at the folder: %w", err)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	next, err := os.MkdirTemp(parent, ".init-") // only its owner can enter it
	if err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(next))
		}
	}()
	for _, name := range f.names("") {
		at := filepath.Join(next, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return fmt.Errorf("making the folder: %w", err)
		}
		if err := writeNew(at, f[name].data, f[name].mode); err != nil {
			return err
		}
	}
	if err := os.Rename(next, dir); err != nil {
		return fmt.Errorf("naming the folder: %w", err)
	}
	return nil
}

// writeNew writes a file that is not there yet.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing a new file: %w", err)
	}
	_, err = out.Write(data)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Init makes the folder and tells on out what it found and made. It reads GitLab and the cluster, and goes on with a warning where it can't.
func Init(ctx context.Context, dir string, a Answers, now time.Time, out io.Writer) error {
	a.defaults()
	if err := a.check(); err != nil {
		return err
	}
	cluster := lookAtCluster(ctx, a)
	f, err := build(a, now, cluster.minor)
	if err != nil {
		return err
	}
	for _, line := range append(cluster.lines, look(ctx, a, f, now)...) {
		fmt.Fprintln(out, rbacsync.Printable(line)) // GitLab said a part of it
	}
	all := ends(f, a)
	if err := finish(f, a, all); err != nil {
		return err
	}
	if err := f.write(dir); err != nil {
		return err
	}
	reportMade(out, dir, all)
	return nil
}

// reportMade says what was made, and what comes next.
func reportMade(out io.Writer, dir string, certificates []End) {
	for _, e := range certificates {
		fmt.Fprintf(out, "%s ends on %s\n", e, day(e.At))
	}
	fmt.Fprintf(out, "Made %s. Go on with %s.\n", dir, filepath.Join(dir, "NEXT.md"))
}

// build makes the files in memory, those of the integrator in the folder integrator.
func build(a Answers, now time.Time, minor int) (folder, error) {
	var webhooks, hooks *authority
	var err error
	if a.Certificates == Own {
		if webhooks, err = newAuthority(webhookCA, "", now); err != nil {
			return nil, err
		}
	}
	if a.ownHooks() {
		if hooks, err = newAuthority(hooksCA, a.hooksHost(), now); err != nil {
			return nil, err
		}
	}
	f, err := certificates(a, webhooks, hooks, now)
	if err != nil {
		return nil, err
	}
	for _, add := range []func(folder, Answers) error{addSecrets, addConfig, addManifests} {
		if err := add(f, a); err != nil {
			return nil, err
		}
	}
	return f, addAPIServer(f, a, minor)
}

// finish adds what is made of the other files.
func finish(f folder, a Answers, certificates []End) error {
	answers, err := yaml.Marshal(a)
	if err != nil {
		return fmt.Errorf("writing the answers: %w", err)
	}
	f.add("answers.yaml", answers, 0o644)
	f.add("node.sh", []byte(nodeScript(a, false)), 0o644)
	f.add("NEXT.md", []byte(nextPage("Install the integrator", a, certificates, installSteps(a))), 0o644)
	if a.Run == InCluster {
		return addFilesSecret(f)
	}
	return nil
}

// addSecrets copies what was given and makes the secret of the hooks.
func addSecrets(f folder, a Answers) error {
	var errs []error
	for name, from := range map[string]string{"read-token": a.ReadTokenFile, "write-token": a.WriteTokenFile, "gitlab-ca.crt": a.GitLabCAFile} {
		if from == "" {
			continue
		}
		data, err := os.ReadFile(from)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading what becomes %s: %w", name, err))
		}
		f.add("integrator/"+name, data, 0o600)
	}
	if a.HooksURL != "" {
		f.add("integrator/hook-secret", []byte(rand.Text()+rand.Text()+"\n"), 0o600)
	}
	return errors.Join(errs...)
}

// addConfig writes config.yaml, in mode plan.
func addConfig(f folder, a Answers) error {
	at := func(name string) string { return path.Join(a.ConfigDir, name) }
	has := func(name string) string {
		if _, ok := f["integrator/"+name]; !ok {
			return ""
		}
		return at(name)
	}
	c := config.Config{APIVersion: config.APIVersion, Kind: config.Kind}
	c.GitLab = config.GitLab{URL: a.GitLab, CAFile: has("gitlab-ca.crt"), ReadTokenFile: at("read-token"), WriteTokenFile: has("write-token")}
	c.Cluster.PublicURL = a.APIServerURL
	c.Listeners.Webhooks = config.Listener{Address: a.WebhookAddress, CertFile: at("tls.crt"), KeyFile: at("tls.key"), ClientCAFile: at("webhook-ca.crt")}
	c.Listeners.Metrics.Address = a.MetricsListen
	if a.HooksURL != "" {
		c.Listeners.Hooks = config.HooksListener{Address: a.HooksListen, CertFile: at("hooks.crt"), KeyFile: at("hooks.key"), SecretFile: at("hook-secret")}
	}
	c.Authn.ClientIDs = a.ClientIDs
	c.RBACSync.Mode = config.ModePlan
	if a.WriteTokenFile == "" {
		c.CI.Delivery = "none"
	} else {
		c.CI.KubeconfigToken = config.TokenInVariable // no job relies on the file yet
	}
	if a.Run == InCluster {
		c.Listeners.Webhooks.Address = "0.0.0.0:8443"
		c.Authz.Explain.Replicas = 2 // as many as deploy/optional/deployment.yaml has
	} else {
		c.Cluster.Kubeconfig = at("integrator.kubeconfig")
	}
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	if _, err := config.Parse(data); err != nil {
		return fmt.Errorf("the configuration that these answers make:\n%w", err)
	}
	if a.Install == Chart {
		values, err := chartValues(a, c)
		f.add("values.yaml", values, 0o644)
		return err
	}
	f.add("integrator/config.yaml", data, 0o644)
	return nil
}

// addAPIServer writes what kube-apiserver reads, and what the distribution needs for it to do so.
func addAPIServer(f folder, a Answers, minor int) error {
	for name, p := range map[string]string{"webhook.kubeconfig": "/authenticate", "authorize.kubeconfig": "/authorize"} {
		data, err := webhookKubeconfig(a.APIServerDir, "https://"+a.WebhookAddress+p)
		if err != nil {
			return err
		}
		f.add("kube-apiserver/"+name, data, 0o644)
	}
	data, err := yaml.Marshal(authorization(a.APIServerDir, minor))
	if err != nil {
		return fmt.Errorf("writing authorization.yaml: %w", err)
	}
	f.add("kube-apiserver/authorization.yaml", data, 0o644)
	name, data, err := forDistribution(a)
	if err != nil {
		return fmt.Errorf("writing what %s needs: %w", a.Distribution, err)
	}
	f.add(name, data, 0o644)
	return nil
}

// addManifests copies deploy/ as this program knows it, and how the integrator runs.
func addManifests(f folder, a Answers) error {
	if a.Install == Chart {
		return addChart(f)
	}
	if a.Certificates == CertManager {
		data, err := certManagerObjects(a)
		if err != nil {
			return err
		}
		f.add("certificates.yaml", data, 0o644)
	}
	all, err := deploy.Texts("manifests/*.yaml")
	if err != nil {
		return err
	}
	for name, data := range all {
		f.add(name, data, 0o644)
	}
	example := map[string]string{Systemd: "optional/gl-k8s-integrator.service", InCluster: "optional/deployment.yaml"}[a.Run]
	for _, name := range []string{example, "optional/token.yaml"} {
		files, err := deploy.Texts(name)
		if err != nil {
			return err
		}
		text := string(files[name])
		switch {
		case name == "optional/token.yaml" && a.Run == Systemd:
			f.add("manifests/50-token.yaml", []byte(text), 0o644)
		case name == example && a.Run == Systemd:
			f.add("gl-k8s-integrator.service", []byte(strings.ReplaceAll(text, inPod+"/", a.ConfigDir+"/")), 0o644)
		case name == example:
			data, err := deployment(text, a)
			if err != nil {
				return err
			}
			f.add("deployment.yaml", data, 0o644)
		}
	}
	return nil
}

// What the example leaves to those who use it.
var (
	imageLine     = regexp.MustCompile(`(?m)^( +image: ).*$`)
	clusterIPLine = regexp.MustCompile(`(?m)^( +clusterIP: ).*$`)
)

// deployment is the example with the image and the Service's IP. Its NetworkPolicy is left out: nobody told who may connect.
func deployment(text string, a Answers) ([]byte, error) {
	var docs []string
	for doc := range strings.SplitSeq(text, "\n---\n") {
		if !strings.Contains(doc, "\nkind: NetworkPolicy\n") {
			docs = append(docs, doc)
		}
	}
	text = strings.Join(docs, "\n---\n")
	ip, _, err := net.SplitHostPort(a.WebhookAddress)
	if err != nil {
		return nil, fmt.Errorf("--webhook-address: %w", err)
	}
	for line, with := range map[*regexp.Regexp]string{imageLine: a.Image, clusterIPLine: "\"" + ip + "\""} {
		if len(line.FindAllString(text, -1)) != 1 {
			return nil, fmt.Errorf("deploy/optional/deployment.yaml has no line %s, or several", line)
		}
		text = line.ReplaceAllString(text, "${1}"+with)
	}
	if a.Certificates == CertManager {
		if text, err = withIssued(text, a); err != nil {
			return nil, err
		}
	}
	return []byte(text), nil
}

// addFilesSecret puts everything of the folder integrator into the Secret that the pods mount.
func addFilesSecret(f folder) error {
	s := corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "gl-k8s-integrator-files", Namespace: deploy.Namespace},
		StringData: map[string]string{},
	}
	for _, name := range f.names("integrator/") {
		s.StringData[path.Base(name)] = string(f[name].data)
		delete(f, name)
	}
	data, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing files.yaml: %w", err)
	}
	f.add("files.yaml", data, 0o600)
	return nil
}

// answersOf reads the answers that a folder was made from.
func answersOf(dir string) (Answers, error) {
	a, err := LoadAnswers(filepath.Join(dir, "answers.yaml"))
	if err != nil {
		return a, fmt.Errorf("%w: is %s a folder that init made?", err, dir)
	}
	a.defaults()
	return a, a.check()
}
