package setup

import (
	"fmt"
	"path"
	"strings"
)

// step is one thing to do: where, why, and at most one line of commands.
type step struct{ title, text, command string }

// onNode says where the files and kube-apiserver are.
const onNode = "As root on each control-plane node, one after the other."

// withFolder is onNode for commands that need the folder's files.
func withFolder(a Answers) string {
	var without []string // what no node needs: keys of authorities, and all that the pods read
	if a.Certificates == Own || a.ownHooks() {
		without = append(without, "`ca/`")
	}
	if a.Run != Systemd {
		without = append(without, "`files.yaml`")
	}
	text := strings.TrimSuffix(onNode, ".") + ", with a copy of this folder"
	if len(without) > 0 {
		text += " (without " + strings.Join(without, " and ") + ")"
	}
	return text + ". Delete the copy afterwards: it has secrets."
}

func installSteps(a Answers) []step {
	conf := path.Join(a.ConfigDir, "config.yaml")
	own := "gl-k8s-integrator "
	var steps []step
	node := step{"The node's files", withFolder(a) + " It copies what kube-apiserver will read to `" + a.APIServerDir + "`.", "sh node.sh"}
	if a.Run == Systemd {
		node.text = withFolder(a) + " It copies what kube-apiserver will read to `" + a.APIServerDir + "` and what the integrator reads to `" + a.ConfigDir +
			"`, and starts the integrator in mode plan, in which it changes nothing. The program has to be at `/usr/local/bin/gl-k8s-integrator`."
		steps = append(steps,
			step{"Roles, fence and cage", "With kubectl as a cluster administrator. It gives nobody a right.", "kubectl apply -f manifests/"},
			step{"The integrator's own credentials", "In this folder, as a cluster administrator. It reads the token of the ServiceAccount into `integrator/`.", "gl-k8s-integrator init kubeconfig ."},
			node)
	} else {
		own = "kubectl -n gl-k8s-integrator exec deployment/gl-k8s-integrator -- /gl-k8s-integrator "
		steps = append(steps, podSteps(a)...)
		steps = append(steps, node)
	}
	steps = append(steps, step{"What it would do", "Exit status 2 says that there is something to do. Read it.", own + "plan --config " + conf})
	steps = append(steps, apiServerSteps(a)...)
	if a.HooksURL != "" && a.WriteTokenFile != "" {
		text := "The write token has to be an administrator's."
		if a.ownHooks() {
			text = "GitLab has to trust `gitlab/hooks-ca.crt` before, which vouches for " + a.hooksHost() + " alone (Linux packages: a copy in /etc/gitlab/trusted-certs, then `gitlab-ctl reconfigure`). " + text
		}
		steps = append(steps, step{
			"GitLab's system hook", text,
			own + "hooks register --config " + conf + " --url " + a.HooksURL,
		})
	}
	enforce := step{"From plan to enforce", "As root on each control-plane node. From now on the cluster follows GitLab.", "sed -i 's/mode: plan$/mode: enforce/' " + conf + " && systemctl restart gl-k8s-integrator"}
	if a.Run == InCluster {
		enforce.text = "From now on the cluster follows GitLab."
		enforce.command = "sed -i 's/mode: plan$/mode: enforce/' files.yaml && kubectl apply -f files.yaml && kubectl -n gl-k8s-integrator rollout restart deployment/gl-k8s-integrator"
		if a.Install == Chart {
			enforce.command = "sed -i 's/mode: plan$/mode: enforce/' values.yaml && helm upgrade gl-k8s-integrator chart --namespace gl-k8s-integrator --values values.yaml"
		}
		enforce.command += rolledOut
	}
	return append(steps, enforce)
}

// rolledOut waits until the pods are those of what was applied last.
const rolledOut = " && kubectl -n gl-k8s-integrator rollout status deployment/gl-k8s-integrator --timeout=5m"

// podSteps bring the integrator into the cluster.
func podSteps(a Answers) []step {
	const text = "As a cluster administrator. It gives nobody a right, and changes nothing yet. `files.yaml` holds secrets: keep it out of version control."
	steps := []step{{"Roles, fence and cage, and the integrator in mode plan", text, ""}}
	if a.Install == Chart {
		steps[0].text += " It needs Helm 4."
		steps[0].command = "kubectl create namespace gl-k8s-integrator --dry-run=client -o yaml | kubectl apply -f - && kubectl apply -f files.yaml && " +
			"helm upgrade --install gl-k8s-integrator chart --namespace gl-k8s-integrator --take-ownership --values values.yaml" + rolledOut
	} else {
		steps[0].command = "kubectl apply -f manifests/ -f files.yaml -f deployment.yaml" + rolledOut
	}
	if a.Certificates == CertManager {
		if a.Install == Manifests {
			steps[0].command = strings.Replace(steps[0].command, " -f files.yaml", " -f certificates.yaml -f files.yaml", 1)
		}
		steps = append(steps, step{"kube-apiserver's certificate", "cert-manager has made it by now. The command reads it into `kube-apiserver/`, and waits for it half a minute.", "gl-k8s-integrator init certificates ."})
	}
	return steps
}

// apiServerSteps make kube-apiserver read its files. The integrator runs before: while it is away, refusals are HTTP 500.
func apiServerSteps(a Answers) []step {
	const ready = " First `/readyz` of the integrator is ok; then this node's kube-apiserver is started again."
	install := func(file, to, unit string) string {
		return "install -D -m 0600 " + file + " " + to + " && systemctl restart " + unit
	}
	switch a.Distribution {
	case Kubeadm, StaticPod:
		file := map[string]string{Kubeadm: "kubeadm.yaml", StaticPod: "static-pod.yaml"}[a.Distribution]
		steps := []step{{
			"kube-apiserver", withFolder(a) + ready + " The command adds what `" + file + "` shows, and keeps the old manifest in this folder as `kube-apiserver.yaml.before`.",
			"gl-k8s-integrator init apiserver --write . /etc/kubernetes/manifests/kube-apiserver.yaml",
		}}
		if a.Distribution == Kubeadm {
			steps = append(steps, step{
				"The same for upgrades", "Once. `kubeadm upgrade` writes kube-apiserver's manifest anew from this ConfigMap.",
				"kubectl -n kube-system get configmap kubeadm-config -o yaml | gl-k8s-integrator init apiserver . | kubectl replace -f -",
			})
		}
		return steps
	case K3s:
		return []step{{"kube-apiserver", withFolder(a) + ready + " k3s before v1.30.12, v1.31.8 or v1.32.4 does not start with these flags: update it first.", install("k3s.yaml", "/etc/rancher/k3s/config.yaml.d/gl-k8s-integrator.yaml", "k3s")}}
	case RKE2:
		return []step{{"kube-apiserver", withFolder(a) + ready + " RKE2 before v1.30.12, v1.31.8 or v1.32.4 does not start with these flags: update it first.", install("rke2.yaml", "/etc/rancher/rke2/config.yaml.d/gl-k8s-integrator.yaml", "rke2-server")}}
	}
	return []step{{"kube-apiserver", withFolder(a) + ready + " Add the flags of `flags.txt` to it, without --authorization-mode, and start it again.", ""}}
}

// nextPage is NEXT.md.
func nextPage(title string, a Answers, certificates []End, steps []step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nThe commands are run in this folder, in this order.", title)
	switch {
	case a.Certificates == Own:
		b.WriteString(" Keep `ca/` apart from everything else: whoever has its keys can pose as the integrator, and so as anybody; `gl-k8s-integrator init renew` needs it.")
	case a.ownHooks():
		b.WriteString(" Keep `ca/` apart from everything else: whoever has its key can pose to GitLab as " + a.hooksHost() + "; `gl-k8s-integrator init renew` needs it.")
	}
	b.WriteByte('\n')
	for i, s := range steps {
		fmt.Fprintf(&b, "\n## %d. %s\n\n%s\n", i+1, s.title, s.text)
		if s.command != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", s.command)
		}
	}
	b.WriteString("\n## When the certificates end\n\nWithout them nobody can log in. `gl-k8s-integrator init renew .` makes new ones beside these, at any time before.\n")
	if a.Certificates == CertManager {
		b.WriteString("cert-manager renews the integrator's own by itself. kube-apiserver's gets to the nodes with `init renew` alone: run it once a year.\n")
	}
	if len(certificates) > 0 {
		b.WriteString("\n| file | ends |\n|---|---|\n")
	}
	for _, e := range certificates {
		fmt.Fprintf(&b, "| %s | %s |\n", e, day(e.At))
	}
	return b.String()
}

// nodeScript copies the files of a node to their places. It is for root; each file has the rights that it needs there. Only a
// renewal replaces what is there: else a second run would take back what was changed since the first.
func nodeScript(a Answers, renewal bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	there := "[ -e %[2]s/\"${f##*/}\" ] || "
	if renewal {
		there = ""
	}
	// The folders stay root's, and so does the unit: whoever could replace that could become root.
	copies := func(from, to, mode, own string) {
		line("install -d -m 0755 %s", to)
		line("for f in %[1]s/*; do "+there+"install -m %[3]s \"$f\" %[2]s/"+own+"; done", from, to, mode)
	}
	line("#!/bin/sh\n# To be run as root on each control-plane node.\nset -eu\ncd \"$(dirname \"$0\")\"")
	copies("kube-apiserver", a.APIServerDir, "0600", "")
	if a.Run != Systemd {
		return b.String()
	}
	if !renewal {
		line("id -u gl-k8s-integrator >/dev/null 2>&1 || useradd --system --user-group --shell /usr/sbin/nologin gl-k8s-integrator")
	}
	copies("integrator", a.ConfigDir, "0400", " && chown gl-k8s-integrator: %[2]s/\"${f##*/}\"")
	if !renewal {
		line("install -m 0644 gl-k8s-integrator.service %s/", a.ConfigDir)
		line("systemctl enable --now %s/gl-k8s-integrator.service", a.ConfigDir)
	}
	return b.String()
}
