package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The flags of kube-apiserver that matter to us. Source:
// https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/.
const (
	flagAuthn         = "authentication-token-webhook-config-file"
	flagAuthnVersion  = "authentication-token-webhook-version"   // default v1beta1
	flagAuthnCache    = "authentication-token-webhook-cache-ttl" // default 2m
	flagAuthnOwn      = "authentication-config"
	flagAuthnOIDC     = "oidc-issuer-url"
	flagAuthorization = "authorization-config"
)

// APIServer is how one kube-apiserver is started, as far as its description tells.
type APIServer struct {
	Where  string            // the file, or the pod
	Flags  map[string]string // by name without dashes
	Mounts []string          // of a pod: the folders and files of the node that it sees
	Pod    bool
}

// asks reports whether it asks a webhook about tokens, and whether it judges them by itself.
func (a APIServer) asks() (webhook, itself bool) {
	return a.Flags[flagAuthn] != "", a.Flags[flagAuthnOwn] != "" || a.Flags[flagAuthnOIDC] != ""
}

// sees reports whether a file of the node is in what a pod sees. Of what is no pod it is not known.
func (a APIServer) sees(file string) bool {
	if !a.Pod {
		return true
	}
	for _, m := range a.Mounts {
		if file == m || strings.HasPrefix(file, strings.TrimSuffix(m, "/")+"/") {
			return true
		}
	}
	return false
}

// podFlags reads a Pod of kube-apiserver: its static pod, or the mirror of that in the cluster.
func podFlags(where string, pod corev1.PodSpec) (APIServer, bool) {
	for _, c := range pod.Containers {
		if c.Name != "kube-apiserver" {
			continue
		}
		a := APIServer{Where: where, Flags: map[string]string{}, Pod: true}
		takeWords(a.Flags, append(c.Command, c.Args...))
		for _, m := range c.VolumeMounts {
			a.Mounts = append(a.Mounts, path.Clean(m.MountPath))
		}
		return a, true
	}
	return APIServer{}, false
}

// takeWords takes flags from the words of a command: --name=value, --name value, and --name alone.
func takeWords(flags map[string]string, words []string) {
	for i, w := range words {
		flag, is := strings.CutPrefix(w, "--")
		if !is {
			continue
		}
		name, value, has := strings.Cut(flag, "=")
		if !has && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			value = words[i+1]
		}
		flags[name] = strings.Trim(value, `"'`)
	}
}

// described is what YAML that describes a kube-apiserver can hold: a Pod, kubeadm's ClusterConfiguration (v1beta3 has a map of
// arguments, v1beta4 a list), or the configuration of k3s and RKE2.
type described struct {
	Kind      string         `json:"kind"`
	Spec      corev1.PodSpec `json:"spec"`
	APIServer struct {
		ExtraArgs any `json:"extraArgs"`
	} `json:"apiServer"`
	Rancher []string `json:"kube-apiserver-arg"`
}

var (
	errNoFlags = errors.New("it holds no flags of kube-apiserver: want its static pod, kubeadm's ClusterConfiguration, the config.yaml of k3s or RKE2, or a command line")
	flagWord   = regexp.MustCompile(`--?[a-z][a-z0-9-]*(=("[^"]*"|'[^']*'|[^\s"'\\]*))?|[^\s\\]+`)
)

// readFlags reads how a kube-apiserver is started from what an administrator has.
func readFlags(file string) (APIServer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return APIServer{}, err
	}
	a := APIServer{Where: file, Flags: map[string]string{}}
	var d described
	if yaml.Unmarshal(data, &d) == nil {
		switch {
		case d.Kind == "Pod":
			if pod, ok := podFlags(file, d.Spec); ok {
				return pod, nil
			}
			return a, errors.New("the Pod has no container kube-apiserver")
		case d.Kind == "ClusterConfiguration":
			takeExtra(a.Flags, d.APIServer.ExtraArgs)
			return a, nil
		case d.Rancher != nil:
			for _, arg := range d.Rancher {
				name, value, _ := strings.Cut(arg, "=")
				a.Flags[name] = value
			}
			return a, nil
		}
	}
	takeWords(a.Flags, flagWord.FindAllString(string(data), -1))
	if len(a.Flags) == 0 {
		return a, errNoFlags
	}
	return a, nil
}

// takeExtra takes kubeadm's arguments.
func takeExtra(flags map[string]string, extra any) {
	switch args := extra.(type) {
	case map[string]any:
		for name, value := range args {
			flags[name] = fmt.Sprint(value)
		}
	case []any:
		for _, one := range args {
			if m, ok := one.(map[string]any); ok {
				flags[fmt.Sprint(m["name"])] = fmt.Sprint(m["value"])
			}
		}
	}
}

// flags looks at how kube-apiserver is started: at the file that was given, and at the mirrors of its static pods. Managed
// clusters show none, and the integrator itself may not look.
func (c clusterLook) flags(ctx context.Context, k *Cluster) {
	const what = "the flags of kube-apiserver"
	const fix = "--apiserver-flags FILE: its static pod, kubeadm's ClusterConfiguration, config.yaml of k3s or RKE2, or its command line"
	if c.APIServerFlags != "" { // the file that was given counts: pods may be of before its change
		return
	}
	list, err := c.Kube.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "component=kube-apiserver"})
	switch {
	case apierrors.IsForbidden(err):
		c.skip(what, "pods of kube-system may not be read", "--kubeconfig FILE of an administrator, or "+fix)
	case err != nil:
		c.blind(what, err, rightsFix)
	default:
		for _, p := range list.Items {
			if a, ok := podFlags("pod "+p.Namespace+"/"+p.Name, p.Spec); ok {
				k.Started = append(k.Started, a)
			}
		}
		if k.Started == nil {
			c.skip(what, "the cluster shows no pod of it", fix)
		}
	}
}
