package web

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// system is what somebody works on.
type system struct {
	Name    string // its text is system.NAME
	Variant kubeconfig.Variant
	Shell   string // of the lines to copy: sh or powershell
	Install string // how to get kubelogin, and kubectl where the same command can
	Current bool
}

// systems are those that have instructions, the same as in docs/kubeconfig.md. What installs kubelogin has to give it the name kubectl-oidc_login.
// Source: README of https://github.com/int128/kubelogin.
var systems = []system{
	{Name: "linux", Variant: kubeconfig.Default, Shell: "sh", Install: "curl -fsSLO https://github.com/int128/kubelogin/releases/latest/download/kubelogin_linux_amd64.zip\n" +
		"unzip -o kubelogin_linux_amd64.zip kubelogin\ninstall -D kubelogin ~/.local/bin/kubectl-oidc_login"},
	{Name: "macos", Variant: kubeconfig.MacOS, Shell: "sh", Install: "brew install kubectl kubelogin"},
	{Name: "windows", Variant: kubeconfig.Windows, Shell: "powershell", Install: "winget install Kubernetes.kubectl int128.kubelogin"},
	{Name: "headless", Variant: kubeconfig.Headless, Shell: "sh", Install: "curl -fsSLO https://github.com/int128/kubelogin/releases/latest/download/kubelogin_linux_amd64.zip\n" +
		"unzip -o kubelogin_linux_amd64.zip kubelogin\ninstall -D kubelogin ~/.local/bin/kubectl-oidc_login"},
}

// systemOf is the one that was chosen, else the one that the browser says that it runs on.
func systemOf(r *http.Request) string {
	chosen := r.URL.Query().Get("system")
	if slices.ContainsFunc(systems, func(s system) bool { return s.Name == chosen }) {
		return chosen
	}
	agent := r.UserAgent()
	switch {
	case strings.Contains(agent, "Windows"):
		return "windows"
	case strings.Contains(agent, "Macintosh"), strings.Contains(agent, "Mac OS X"):
		return "macos"
	}
	return "linux"
}

// connectData is what connect.html shows.
type connectData struct {
	Systems   []system
	System    system
	Namespace string // that the file is for first; "": the strongest
	File      string // its name; "": none can be made
	Download  string // its address
	Lines     string
}

// connect says how to get from nothing to kubectl get pods.
func (s peoplePages) connect(w http.ResponseWriter, r *http.Request, v *visit) {
	d := connectData{Systems: slices.Clone(systems)}
	if n := r.URL.Query().Get("namespace"); n != "" {
		mine, err := s.o.People.Namespaces(v.session.User, people.Filter{Name: n})
		if err != nil {
			s.broken(w, r, v, err)
			return
		}
		if len(mine.Namespaces) > 0 {
			d.Namespace = n
		}
	}
	now := systemOf(r)
	for i := range d.Systems {
		if d.Systems[i].Name == now {
			d.Systems[i].Current = true
			d.System = d.Systems[i]
		}
	}
	if s.o.Kubeconfig != nil {
		d.File = fileName(s.o.Cluster)
		d.Download = "/kubeconfig?variant=" + string(d.System.Variant)
		if d.Namespace != "" {
			d.Download += "&namespace=" + d.Namespace // a DNS label
		}
		first := ""
		if d.System.Variant == kubeconfig.Headless {
			namespaces, err := s.contexts(v.session.User, d.Namespace)
			if err != nil {
				s.broken(w, r, v, err)
				return
			}
			if len(namespaces) > 0 {
				first = namespaces[0]
			}
		}
		d.Lines = s.commands(d.System, d.File, first)
	}
	s.page(w, r, v, "connect", d)
}

// fileName is what the file of a cluster is called. A cluster's name may hold a colon, which parts the files in KUBECONFIG, and which
// Windows has in no name.
func fileName(cluster string) string { return strings.ReplaceAll(cluster, ":", "-") + ".yaml" }

// commands are those that follow the download, as docs/kubeconfig.md has them. The name of a file needs no quotes in a shell. The file
// that is fetched without a browser is that for everybody: its context has no namespace, so the last line names one; "" for none.
func (s peoplePages) commands(on system, file, namespace string) string {
	if namespace != "" {
		namespace = " -n " + namespace
	}
	switch {
	case on.Variant == kubeconfig.Headless:
		return "mkdir -p ~/.kube && curl -fsSo ~/.kube/" + file + " '" + s.o.URL + webapi.PathKubeconfig + "?variant=headless'\n" +
			"export KUBECONFIG=~/.kube/" + file + ":~/.kube/config\nkubectl get pods" + namespace
	case on.Shell == "powershell":
		return `New-Item -ItemType Directory -Force "$HOME\.kube"; Move-Item -Force "$HOME\Downloads\` + file + `" "$HOME\.kube\` + file + "\"\n" +
			`$env:KUBECONFIG = "$HOME\.kube\` + file + `;$HOME\.kube\config"` + "\nkubectl get pods"
	}
	return "mkdir -p ~/.kube && mv ~/Downloads/" + file + " ~/.kube/" + file + "\nexport KUBECONFIG=~/.kube/" + file + ":~/.kube/config\nkubectl get pods"
}

// contexts returns the names of somebody's namespaces, the wanted one first, else the strongest.
func (s peoplePages) contexts(user int64, wanted string) ([]string, error) {
	names, err := s.o.People.Reachable(user)
	if err != nil {
		return nil, err
	}
	mine, err := s.o.People.Namespaces(user, people.Filter{})
	if err != nil {
		return nil, err
	}
	for _, n := range mine.Namespaces { // what is not in the cluster yet comes without a new file
		if n.State != "" && !slices.Contains(names, n.Name) {
			names = append(names, n.Name)
		}
	}
	if i := slices.Index(names, wanted); i > 0 {
		names = slices.Concat(names[i:i+1], names[:i], names[i+1:])
	}
	return names, nil
}

// kubeconfig sends the file: what everybody gets, with the names of one's own namespaces, the wanted one first, else the strongest.
func (s peoplePages) kubeconfig(w http.ResponseWriter, r *http.Request, v *visit) {
	variant, err := kubeconfig.ParseVariant(r.URL.Query().Get("variant"))
	if err != nil || s.o.Kubeconfig == nil {
		s.notFound(w, r, v)
		return
	}
	namespaces, err := s.contexts(v.session.User, r.URL.Query().Get("namespace"))
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	file, err := s.o.Kubeconfig(r.Context(), variant, namespaces)
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Content-Disposition", `attachment; filename="`+fileName(s.o.Cluster)+`"`)
	_, _ = w.Write(file) // the caller is gone if this fails
}
