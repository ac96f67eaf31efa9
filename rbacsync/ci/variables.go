package ci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Variable is one CI/CD variable of a GitLab project.
type Variable struct {
	Key       string
	Value     string
	File      bool // the job gets the path of a file with the value
	Masked    bool // GitLab hides the value in job logs; it must be one line then
	Protected bool // only jobs on protected branches and tags get it
}

// Delivery stands for the variable where its value is not shown: GitLab keeps it in the description, and a value of an
// earlier delivery, as after a restore of GitLab, has another one.
func (v Variable) Delivery() string { return sumOf(v) }

// Cluster is what a CI job must know of kube-apiserver, as jobs reach it.
type Cluster struct {
	URL string
	CA  []byte // PEM; empty: one that every system knows
}

// IDTokenVariable is where a job of mode id-token has its ID token: the key under id_tokens in .gitlab-ci.yml.
const IDTokenVariable = "KUBE_ID_TOKEN" //nolint:gosec // the name of a variable

// Keys returns the keys of all variables that a project may be given.
func Keys() []string {
	return []string{kubeconfigKey, "KUBE_CA_PEM", "KUBE_CA_PEM_FILE", "KUBE_NAMESPACE", "KUBE_TOKEN", "KUBE_URL"}
}

// unchecked returns what a deploy job gets, sorted by key: nothing in a mode that needs none.
// agentContext is a second name of the kubeconfig's context in mode agent, if not empty.
func (w *work) unchecked(project Project, token, agentContext string) ([]Variable, error) {
	c, mode := &w.p.c, project.Delivery
	at, user, alias := w.facts.cluster, &clientcmdapi.AuthInfo{}, ""
	switch mode {
	case rbacsync.DeliverVariables:
		if user.Token = token; !w.inFile(project) {
			user.Token, user.Exec = "", fromToken()
		}
	case rbacsync.DeliverIDToken:
		user.Exec = printing(IDTokenVariable, "", "this job has no ID token for the cluster: give it id_tokens: "+IDTokenVariable+": aud: "+c.Audience+" in .gitlab-ci.yml")
	case rbacsync.DeliverAgent:
		at, alias = Cluster{URL: c.Agent.URL, CA: w.facts.agentCA}, agentContext
		user.Exec = printing("CI_JOB_TOKEN", "ci:"+strconv.FormatInt(c.Agent.ID, 10)+":", "there is no CI_JOB_TOKEN: this is not a job of GitLab CI")
	case rbacsync.DeliverCertificate, rbacsync.DeliverNone:
		return nil, nil
	default:
		return nil, fmt.Errorf("unknown way of delivery %q", mode)
	}
	kubeconfig, err := kubeconfig(at, w.n.Name, user, alias)
	if err != nil {
		return nil, err
	}
	protected := !project.Unprotected
	vars := []Variable{{Key: kubeconfigKey, Value: string(kubeconfig), File: true, Protected: protected}}
	if len(at.CA) > 0 {
		vars = append(vars,
			Variable{Key: "KUBE_CA_PEM", Value: string(at.CA), Protected: protected},
			Variable{Key: "KUBE_CA_PEM_FILE", Value: string(at.CA), File: true, Protected: protected})
	}
	vars = append(vars, Variable{Key: "KUBE_NAMESPACE", Value: w.n.Name, Protected: protected})
	if mode == rbacsync.DeliverVariables {
		vars = append(vars, Variable{Key: "KUBE_TOKEN", Value: token, Masked: true, Protected: protected})
	}
	return append(vars, Variable{Key: "KUBE_URL", Value: at.URL, Protected: protected}), nil
}

// printing makes kubectl get its token from an environment variable of the job, with prefix before it. A POSIX shell
// is all it needs. What is in the variable goes into JSON, so only the characters of tokens are let through.
func printing(variable, prefix, missing string) *clientcmdapi.ExecConfig {
	const script = `LC_ALL=C
t=${%[1]s-}
case $t in
''|*[!A-Za-z0-9._~+/=-]*) echo %[2]s >&2; exit 1 ;;
esac
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%%s%%s"}}\n' %[3]s "$t"`
	return shell(fmt.Sprintf(script, variable, quote(missing), quote(prefix)))
}

// shell makes kubectl run a script. What it prints on stderr is in the job log.
func shell(script string) *clientcmdapi.ExecConfig {
	return &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: "sh", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
		Args: []string{"-c", script},
	}
}

// inFile reports whether KUBECONFIG holds the token itself.
func (w *work) inFile(p Project) bool { return p.TokenInFile || w.facts.expands }

// holds reports whether the variable of that key has a token of the ServiceAccount in it.
func (w *work) holds(p Project, key string) bool {
	return p.Delivery == rbacsync.DeliverVariables && (key == "KUBE_TOKEN" || key == kubeconfigKey && w.inFile(p))
}

// fromToken takes the token from the variable that GitLab masks in the log.
func fromToken() *clientcmdapi.ExecConfig {
	e := printing("KUBE_TOKEN", "", "KUBE_TOKEN is empty: KUBECONFIG takes the token from there. Where the file is used without the variables of its job, ask the administrators of the cluster for kubeconfigToken: file")
	e.InstallHint = "KUBECONFIG takes the token from KUBE_TOKEN with the help of sh, and there is no sh here: ask the administrators of the cluster for kubeconfigToken: file"
	return e
}

// quote makes one word of a text for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// ourContext is what context, cluster and user are called in a job's kubeconfig.
const ourContext = "gitlab-deploy"

// kubeconfig writes a kubeconfig with one current context. alias, if not empty, is the name of a second one that is the same.
func kubeconfig(c Cluster, namespace string, user *clientcmdapi.AuthInfo, alias string) ([]byte, error) {
	k := clientcmdapi.NewConfig()
	k.Clusters[ourContext] = &clientcmdapi.Cluster{Server: c.URL, CertificateAuthorityData: c.CA}
	k.AuthInfos[ourContext] = user
	k.Contexts[ourContext] = &clientcmdapi.Context{Cluster: ourContext, AuthInfo: ourContext, Namespace: namespace}
	if alias != "" {
		k.Contexts[alias] = k.Contexts[ourContext]
	}
	k.CurrentContext = ourContext
	out, err := clientcmd.Write(*k)
	if err != nil {
		return nil, fmt.Errorf("writing the kubeconfig for namespace %s: %w", namespace, err)
	}
	return out, nil
}

// sumsOf tells a later round, also of another process, which of these variables a project has already. Of a value
// with a secret in it, that secret is of high entropy, so the sum gives nothing away.
func sumsOf(vars []Variable) map[string]string {
	out := make(map[string]string, len(vars))
	for _, v := range vars {
		out[v.Key] = sumOf(v)
	}
	return out
}

func sumOf(v Variable) string {
	return sum(v.Value, strconv.FormatBool(v.File), strconv.FormatBool(v.Masked), strconv.FormatBool(v.Protected))
}

func sum(parts ...string) string {
	h := sha256.New()
	for _, s := range parts {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s))) // hash.Hash never returns an error
		h.Write([]byte(s))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// drift compares what a project should have with what GitLab has, and notes in the record what is somebody else's.
func (diff *difference) drift(d *delivery, want []Variable) {
	rec, scope, claim := &d.rec, d.p.c.Scope, d.claim(&d.rec)
	diff.again = map[string]bool{}
	for _, w := range want {
		if !slices.ContainsFunc(d.has, func(h authz.CIVariable) bool { return h.Key == w.Key && h.Scope == scope }) {
			diff.again[w.Key] = true
		}
	}
	var taken *other
	var foreign []string
	for _, h := range d.has {
		if h.Scope != scope {
			continue
		}
		i := slices.IndexFunc(want, func(w Variable) bool { return w.Key == h.Key })
		named := h.Marked && h.Cluster != "" // else only a list with values has a Delivery
		ours := named && claim.names(h.Cluster) || h.Marked && !named && slices.Contains(claim.Replaces, Unnamed)
		maybe := !named && len(rec.sums(h.Key)) > 0 && (rec.Other == nil || !slices.Contains(rec.Other.Keys, h.Key))
		switch {
		case !ours && !maybe && h.Marked:
			if taken == nil {
				taken = &other{}
			}
			taken.Keys, taken.Cluster = append(taken.Keys, h.Key), max(taken.Cluster, h.Cluster)
		case !ours && !maybe:
			if i >= 0 {
				foreign = append(foreign, h.Key)
			}
		case i < 0:
			diff.leftover = diff.leftover || h.Marked
		case named && h.Cluster != claim.Cluster || h.Delivery != rec.Sums[h.Key] || h.File != want[i].File || h.Masked != want[i].Masked || h.Protected != want[i].Protected || !h.Raw || h.Hidden:
			diff.again[h.Key] = true
		}
	}
	if d.project.Delivery.WritesVariables() {
		rec.Other = taken
		diff.taken = taken != nil
	}
	if !diff.taken {
		slices.Sort(foreign)
		rec.Foreign = foreign
	}
}
