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
	Install string // how to get kubelogin
	Current bool
}

// systems are those that have instructions. What installs kubelogin has to give it the name kubectl-oidc_login.
// Source: README of https://github.com/int128/kubelogin.
var systems = []system{
	{Name: "linux", Variant: kubeconfig.Default, Shell: "sh", Install: "curl -fsSLO https://github.com/int128/kubelogin/releases/latest/download/kubelogin_linux_amd64.zip\n" +
		"unzip -o kubelogin_linux_amd64.zip kubelogin\ninstall -D kubelogin ~/.local/bin/kubectl-oidc_login"},
	{Name: "macos", Variant: kubeconfig.MacOS, Shell: "sh", Install: "brew install kubelogin"},
	{Name: "windows", Variant: kubeconfig.Windows, Shell: "powershell", Install: "winget install int128.kubelogin"},
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
		d.File = s.o.Cluster + ".yaml"
		d.Download = "/kubeconfig?variant=" + string(d.System.Variant)
		if d.Namespace != "" {
			d.Download += "&namespace=" + d.Namespace // a DNS label
		}
		d.Lines = s.commands(d.System, d.File)
	}
	s.page(w, r, v, "connect", d)
}

// commands are those that follow the download, as docs/kubeconfig.md has them. The name of a file is that of the cluster, which needs
// no quotes in a shell.
func (s peoplePages) commands(on system, file string) string {
	switch {
	case on.Variant == kubeconfig.Headless:
		return "mkdir -p ~/.kube && curl -fsSo ~/.kube/" + file + " '" + s.o.URL + webapi.PathKubeconfig + "?variant=headless'\n" +
			"export KUBECONFIG=~/.kube/" + file + ":~/.kube/config\nkubectl get pods"
	case on.Shell == "powershell":
		return `New-Item -ItemType Directory -Force "$HOME\.kube"; Move-Item -Force "$HOME\Downloads\` + file + `" "$HOME\.kube\` + file + "\"\n" +
			`$env:KUBECONFIG = "$HOME\.kube\` + file + `;$HOME\.kube\config"` + "\nkubectl get pods"
	}
	return "mkdir -p ~/.kube && mv ~/Downloads/" + file + " ~/.kube/" + file + "\nexport KUBECONFIG=~/.kube/" + file + ":~/.kube/config\nkubectl get pods"
}

// kubeconfig sends the file: what everybody gets, with the names of one's own namespaces, the wanted one first, else the strongest.
func (s peoplePages) kubeconfig(w http.ResponseWriter, r *http.Request, v *visit) {
	variant, err := kubeconfig.ParseVariant(r.URL.Query().Get("variant"))
	if err != nil || s.o.Kubeconfig == nil {
		s.notFound(w, r, v)
		return
	}
	namespaces, err := s.o.People.Reachable(v.session.User)
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	mine, err := s.o.People.Namespaces(v.session.User, people.Filter{})
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	for _, n := range mine.Namespaces { // what is not in the cluster yet comes without a new file
		if n.State != "" && !slices.Contains(namespaces, n.Name) {
			namespaces = append(namespaces, n.Name)
		}
	}
	if i := slices.Index(namespaces, r.URL.Query().Get("namespace")); i > 0 {
		namespaces = slices.Concat(namespaces[i:i+1], namespaces[:i], namespaces[i+1:])
	}
	file, err := s.o.Kubeconfig(r.Context(), variant, namespaces)
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Content-Disposition", `attachment; filename="`+s.o.Cluster+`.yaml"`)
	_, _ = w.Write(file) // the caller is gone if this fails
}
