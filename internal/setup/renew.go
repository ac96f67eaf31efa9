package setup

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// renewal begins the names of the folders with later certificates; what follows is a time, in which they sort.
const renewal = "renewed-"

// latest returns the folder with the newest certificates: that of init, or its last renewal.
func latest(dir string) (string, error) {
	all, err := filepath.Glob(filepath.Join(dir, renewal+"*"))
	if err != nil || len(all) == 0 {
		return dir, err
	}
	slices.Sort(all)
	return all[len(all)-1], nil
}

// Renew makes new certificates in a new folder below that of Init, and NEXT.md beside them. Old and new ones work together, in
// any order in which the nodes get them: both are trusted by both sides until the old ones end. What cert-manager renews for
// kube-apiserver is read from the cluster of kubeconfig (empty: as kubectl finds it).
func Renew(ctx context.Context, dir, kubeconfig string, now time.Time, out io.Writer) error {
	a, err := answersOf(dir)
	if err != nil {
		return err
	}
	from, err := latest(dir)
	if err != nil {
		return fmt.Errorf("looking for the newest certificates: %w", err)
	}
	var webhooks, hooks *authority
	if a.Certificates == Own {
		if webhooks, err = renewed(from, webhookCA, "", "kube-apiserver/webhook-ca.crt", now, out); err != nil {
			return err
		}
	}
	if a.ownHooks() {
		if hooks, err = renewed(from, hooksCA, a.hooksHost(), "gitlab/hooks-ca.crt", now, out); err != nil {
			return err
		}
	}
	f, err := certificates(a, webhooks, hooks, now)
	if err != nil {
		return err
	}
	if a.Certificates == CertManager {
		issued, err := fetch(ctx, a, kubeconfig)
		if err != nil {
			return err
		}
		maps.Copy(f, issued)
	}
	ending := ends(f, a)
	f.add("node.sh", []byte(nodeScript(a, true)), 0o644)
	f.add("NEXT.md", []byte(nextPage("New certificates", a, ending, renewSteps(a))), 0o644)
	if a.Run == InCluster && (webhooks != nil || hooks != nil) {
		if err := renewSecret(f, from); err != nil {
			return err
		}
	}
	to := filepath.Join(dir, renewal+now.UTC().Format("20060102T150405Z"))
	if err := f.write(to); err != nil {
		return err
	}
	reportMade(out, to, ending)
	return nil
}

// renewed is the authority of a folder, ready to sign again; bundle is the file with all that is trusted.
func renewed(from, name, onlyHost, bundle string, now time.Time, out io.Writer) (*authority, error) {
	trusted, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(bundle)))
	if err != nil {
		return nil, fmt.Errorf("reading what is trusted now: %w", err)
	}
	ca, err := loadAuthority(from, name, onlyHost, trusted)
	if err != nil {
		return nil, err
	}
	warning, err := ca.renew(now)
	if warning != "" {
		fmt.Fprintf(out, "warning: %s\n", warning)
	}
	return ca, err
}

// renewSecret writes the whole Secret again, with the configuration as it is in the folder before.
func renewSecret(f folder, from string) error {
	data, err := os.ReadFile(filepath.Join(from, "files.yaml"))
	if err != nil {
		return fmt.Errorf("reading the Secret with the files: %w", err)
	}
	var s corev1.Secret
	if err := yaml.UnmarshalStrict(data, &s); err != nil {
		return fmt.Errorf("reading the Secret in %s: %w", filepath.Join(from, "files.yaml"), err)
	}
	for name, content := range s.StringData {
		if _, fresh := f["integrator/"+name]; !fresh {
			f.add("integrator/"+name, []byte(content), 0o600)
		}
	}
	return addFilesSecret(f)
}

func renewSteps(a Answers) []step {
	var steps []step
	if a.Run == InCluster && (a.Certificates == Own || a.ownHooks()) {
		steps = append(steps, step{"The integrator's files", "It reads them again within minutes. From now on this is the file to change: the older one has the older certificates.", "kubectl apply -f files.yaml"})
	}
	steps = append(steps, step{"The node's files", withFolder(a) + " The integrator reads new certificates by itself.", "sh node.sh"})
	restart := map[string]string{
		K3s: "systemctl restart k3s", RKE2: "systemctl restart rke2-server",
		Kubeadm: "", StaticPod: "", Flags: "",
	}[a.Distribution]
	text := onNode + " It reads an authority at its start only; until then it trusts the one before, which these certificates are good for too."
	if restart == "" {
		text += " A static pod starts again when its manifest is moved out of /etc/kubernetes/manifests for a minute, and back."
	}
	return append(steps, step{"kube-apiserver starts again", text, restart})
}
