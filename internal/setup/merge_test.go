package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	podBefore = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, annotations: {kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: "192.0.2.1:6443"}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --authorization-mode=Node,RBAC, --secure-port=6443]
    volumeMounts: [{name: k8s-certs, mountPath: /etc/kubernetes/pki, readOnly: true}]
  volumes: [{name: k8s-certs, hostPath: {path: /etc/kubernetes/pki, type: DirectoryOrCreate}}]
`
	listBefore = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.37.2\napiServer: {certSANs: [a], extraArgs: [{name: audit-log-path, value: x}, {name: authorization-mode, value: 'Node,RBAC'}]}\n"
	mapBefore  = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nkubernetesVersion: v1.30.1\napiServer: {extraArgs: {audit-log-path: x, authorization-mode: 'Node,RBAC'}}\n"
	noneBefore = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
)

func configMap(t *testing.T, text string) string {
	t.Helper()
	out, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"ClusterConfiguration": text}})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestMerge: everything stays but authorization-mode, ours is there once, and a second time changes nothing.
func TestMerge(t *testing.T) {
	for name, in := range map[string]string{"pod": podBefore, "list": listBefore, "map": mapBefore, "none": noneBefore, "in a ConfigMap": configMap(t, listBefore)} {
		t.Run(name, func(t *testing.T) {
			once, err := merge("/x", []byte(in))
			if err != nil {
				t.Fatal(err)
			}
			twice, err := merge("/x", once)
			if err != nil || string(once) != string(twice) {
				t.Errorf("%v: once\n%s\ntwice\n%s", err, once, twice)
			}
			text := string(once)
			for _, kept := range []string{"audit-log-path", "--secure-port=6443", "certSANs", "kubernetesVersion: v1.37.2", "k8s-certs", "advertise-address.endpoint"} {
				if strings.Count(in, kept) != strings.Count(text, kept) {
					t.Errorf("%s is lost in\n%s", kept, text)
				}
			}
			if strings.Contains(text, "authorization-mode") || strings.Count(text, "/x/authorization.yaml") != 1 || strings.Count(text, "/x/webhook.kubeconfig") != 1 {
				t.Errorf("the flags in\n%s", text)
			}
			if name == "pod" {
				var p corev1.Pod
				strict(t, name, once, &p)
				if c := p.Spec.Containers[0]; len(c.VolumeMounts) != 2 || len(p.Spec.Volumes) != 2 || c.Command[0] != "kube-apiserver" {
					t.Errorf("it is\n%s", once)
				}
			}
		})
	}
}

// TestMergeRefuses what only people can join with ours.
func TestMergeRefuses(t *testing.T) {
	for flag, want := range map[string]string{
		"--authorization-mode=Node,RBAC,Webhook":                  "has the authorizer Webhook",
		"--authorization-config=/other.yaml":                      "already",
		"--authentication-token-webhook-config-file=/other":       "already",
		"--authorization-webhook-config-file=/etc/authz":          "add that webhook",
		"--authentication-token-webhook-version=v1beta1":          "already",
		"--authorization-mode=ABAC --authorization-policy-file=x": "ABAC",
	} {
		flag, _, _ = strings.Cut(flag, " ")
		_, err := merge("/x", []byte(strings.Replace(podBefore, "--authorization-mode=Node,RBAC", `"`+flag+`"`, 1)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, words := range []string{"--authorization-mode\", \"Node,RBAC", "--authentication-token-webhook-config-file\", \"/other", "-authorization-mode=Node,RBAC"} {
		if _, err := merge("/x", []byte(strings.Replace(podBefore, "--authorization-mode=Node,RBAC", `"`+words+`"`, 1))); err == nil || !strings.Contains(err.Error(), "can't be joined") {
			t.Errorf("%q: %v", words, err)
		}
	}
	const both = "kind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    command: [kube-apiserver, --authorization-mode=Node]\n    args: [--v=2]\n"
	if _, err := merge("/x", []byte(both)); err == nil || !strings.Contains(err.Error(), "in its command") {
		t.Errorf("flags in command and args: %v", err)
	}
	for _, in := range []string{"kind: Service", "a: [", "kind: Pod", "kind: ConfigMap"} {
		if _, err := merge("/x", []byte(in)); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}

// TestMergeFile replaces a file at once, keeps what it was, and does nothing the second time.
func TestMergeFile(t *testing.T) {
	dir := made(t, sample(t, Kubeadm, Systemd))
	manifests := t.TempDir()
	file := filepath.Join(manifests, "kube-apiserver.yaml")
	if err := os.WriteFile(file, []byte(podBefore), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := MergeFile(dir, file); err != nil {
			t.Fatal(err)
		}
		if string(read(t, dir, "kube-apiserver.yaml.before")) != podBefore || !strings.Contains(string(read(t, file)), "--authorization-config=") {
			t.Error("the old one is not kept, or the new one not there")
		}
	}
	if all, err := os.ReadDir(manifests); err != nil || len(all) != 1 {
		t.Errorf("kubelet finds %v, %v", all, err)
	}
}
