// Package kubeconfig writes the file with which people reach clusters through GitLab. There is no secret in it, and nothing
// about a person but the names of their namespaces: kubelogin, which kubectl starts, logs them in.
//
// All names in it begin with the cluster's and hold a slash, so that files of several clusters, and people's own, can be
// merged: of two entries with the same name kubectl takes the first.
package kubeconfig

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ErrNotNow is wrapped by what keeps a file from being made and passes by itself. Its text is for people.
var ErrNotNow = errors.New("no kubeconfig can be made now, because GitLab does not show its certificate: try again in a minute, and tell the cluster's administrators if it lasts")

// Cluster is one cluster in a file.
type Cluster struct {
	// Name is the first part of all names in the file. See CheckName and NameOf.
	Name string
	// URL of kube-apiserver, as laptops reach it.
	URL string
	// CA in PEM that signed kube-apiserver's certificate; empty: one that every system knows. All but certificates is left out.
	CA []byte
	// Issuer is GitLab's URL as it stands in tokens, ClientID that of the application that kubelogin logs in with.
	Issuer, ClientID string
	// IssuerCA in PEM signed GitLab's certificate; empty: one that every system knows.
	IssuerCA []byte
	// Server is where /api/v1 is, for programs that ask about the person (docs/kubectl-gitlab.md); "" for nowhere. It goes into an
	// extension, which kubectl keeps and does not look at. What verifies it, besides what every system knows, is IssuerCA.
	Server string
	// Namespaces get a context each; the first one's is the current context. Without any there is one context, without a
	// namespace.
	Namespaces []string
}

// Variant says for what kind of machine a file is.
type Variant string

// KeyboardRedirect is where GitLab sends the browser of somebody who logs in on another machine. Nothing listens there: the
// person copies the code from the address.
const KeyboardRedirect = "http://localhost:8000"

// ExtensionName is the extension of a cluster's entry that says where /api/v1 is.
const ExtensionName = "gl-k8s-integrator"

// Extension is what it says. Readers take no notice of fields that they don't know.
type Extension struct {
	Server string `json:"server"`                             // URL
	CA     []byte `json:"certificateAuthorityData,omitempty"` // PEM, beside the CAs of the system
	Issuer string `json:"issuer"`                             // GitLab's URL: only its tokens are for that server
}

// The variants. They differ in how kubelogin logs in, where it keeps tokens, and how it is installed.
const (
	Default  Variant = "default"  // a browser, tokens in files for the person alone: works on every system
	MacOS    Variant = "macos"    // a browser, tokens in the Keychain
	Windows  Variant = "windows"  // a browser, tokens in the Credential Manager
	Headless Variant = "headless" // no browser: an address to open elsewhere, and a code to type
)

// Variants returns all of them.
func Variants() []Variant { return []Variant{Default, MacOS, Windows, Headless} }

// ParseVariant reads the name of a variant; "" is Default.
func ParseVariant(s string) (Variant, error) {
	if s == "" {
		return Default, nil
	}
	if v := Variant(s); slices.Contains(Variants(), v) {
		return v, nil
	}
	return "", fmt.Errorf("want one of %s as variant, not %q", strings.Join(names(Variants()), ", "), s)
}

func names(vs []Variant) (out []string) {
	for _, v := range vs {
		out = append(out, string(v))
	}
	return out
}

// Command is kubelogin's name as a plug-in of kubectl: "kubelogin" alone can be another program, and kubectl shows the
// install hint only where it finds no program of the name.
const Command = "kubectl-oidc_login"

// maxArguments bounds what kubelogin is started with: Windows takes 32767 characters (CreateProcessW).
const maxArguments = 30000

// hints say how kubelogin is installed, in words that kubectl prints where it is missing. The packages that are named here
// install it as Command.
var hints = map[Variant]string{
	Default: hintHead + "  macOS:   brew install kubelogin\n  Windows: winget install int128.kubelogin\n" +
		"  Linux:   kubectl krew install oidc-login (krew: https://krew.sigs.k8s.io), or brew install kubelogin\n" + hintTail,
	MacOS:    hintHead + "  brew install kubelogin\n" + hintTail,
	Windows:  hintHead + "  winget install int128.kubelogin\n" + hintTail,
	Headless: hintHead + "  kubectl krew install oidc-login (krew: https://krew.sigs.k8s.io), or brew install kubelogin\n" + hintTail,
}

const (
	hintHead = "kubelogin, which logs you in through GitLab, is not installed. Install it, open a new terminal, and run the command again:\n"
	hintTail = "Or get it from https://github.com/int128/kubelogin/releases, and put it as " + Command + " into a folder of your PATH."
)

// File returns the file for these clusters. It is the same for the same arguments, and names all faults in them.
func File(clusters []Cluster, v Variant) ([]byte, error) {
	if !slices.Contains(Variants(), v) {
		return nil, fmt.Errorf("writing a kubeconfig: there is no variant %q", v)
	}
	if len(clusters) == 0 {
		return nil, errors.New("writing a kubeconfig: no cluster is given")
	}
	k := clientcmdapi.NewConfig()
	var faults []error
	seen := map[string]bool{}
	for _, c := range clusters {
		if err := c.check(); err != nil {
			faults = append(faults, fmt.Errorf("writing a kubeconfig for cluster %q: %w", c.Name, err))
			continue
		}
		if seen[c.Name] {
			faults = append(faults, fmt.Errorf("writing a kubeconfig: two clusters are called %q: give each its own cluster.name", c.Name))
			continue
		}
		seen[c.Name] = true
		if err := c.add(k, v); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	out, err := clientcmd.Write(*k)
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return append([]byte("# There is no secret in this file: kubelogin logs you in through GitLab when kubectl starts it.\n"), out...), nil
}

// add adds the entries of a cluster. The first context that is added becomes the current one.
func (c Cluster) add(k *clientcmdapi.Config, v Variant) error {
	exec := c.exec(v)
	size := len(exec.Command)
	for _, a := range exec.Args {
		size += len(a) + 3 // a space and quotes
	}
	if size > maxArguments {
		return fmt.Errorf("writing a kubeconfig for cluster %q: kubelogin would be started with %d characters, and Windows takes %d: let gitlab.caFile hold only the CA of GitLab's certificate",
			c.Name, size, maxArguments)
	}
	cluster, user := c.Name+"/cluster", c.Name+"/gitlab"
	k.Clusters[cluster] = &clientcmdapi.Cluster{Server: c.URL, CertificateAuthorityData: certificates(c.CA)}
	if c.Server != "" {
		at, err := json.Marshal(Extension{Server: c.Server, CA: certificates(c.IssuerCA), Issuer: c.Issuer})
		if err != nil {
			return fmt.Errorf("writing a kubeconfig for cluster %q: %w", c.Name, err)
		}
		k.Clusters[cluster].Extensions = map[string]runtime.Object{ExtensionName: &runtime.Unknown{Raw: at, ContentType: runtime.ContentTypeJSON}}
	}
	k.AuthInfos[user] = &clientcmdapi.AuthInfo{Exec: exec}
	if len(c.Namespaces) == 0 {
		c.Namespaces = []string{""}
	}
	for _, ns := range c.Namespaces {
		name := ContextName(c.Name, ns)
		k.Contexts[name] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user, Namespace: ns}
		if k.CurrentContext == "" {
			k.CurrentContext = name
		}
	}
	return nil
}

// ContextName returns what the context of a namespace is called. Without a namespace it is "default", which kubectl takes
// then, and which is no tenant's.
func ContextName(cluster, namespace string) string {
	if namespace == "" {
		namespace = "default"
	}
	return cluster + "/" + namespace
}

// exec says how kubectl starts kubelogin (its docs/usage.md). Where tokens are kept, and for which GitLab and application, is
// all that kubelogin knows them by: clusters that share these share a login.
func (c Cluster) exec(v Variant) *clientcmdapi.ExecConfig {
	args := []string{"get-token", "--oidc-issuer-url=" + c.Issuer, "--oidc-client-id=" + c.ClientID}
	if ca := certificates(c.IssuerCA); len(ca) > 0 {
		args = append(args, "--certificate-authority-data="+base64.StdEncoding.EncodeToString(ca))
	}
	switch v {
	case Headless: // GitLab's discovery document names no address for device-code, which kubelogin needs (docs/adr/0131)
		args = append(args, "--grant-type=authcode-keyboard", "--oidc-redirect-url="+KeyboardRedirect)
	case MacOS, Windows:
		args = append(args, "--token-cache-storage=keyring")
	case Default: // not every Linux has a keyring, and without one kubelogin fails
	}
	return &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: Command, Args: args, InstallHint: hints[v],
		InteractiveMode: clientcmdapi.IfAvailableExecInteractiveMode,
	}
}

// check returns what is wrong with a cluster.
func (c Cluster) check() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(CheckName(c.Name) != nil, "its name: %w", CheckName(c.Name))
	urls := map[string]string{"URL of the API server": c.URL, "URL of GitLab": c.Issuer}
	if c.Server != "" {
		urls["URL of the page for people (web.url)"] = c.Server
	}
	for what, raw := range urls {
		u, err := url.Parse(raw)
		fault(err != nil || u.Scheme == "" || u.Host == "" || u.User != nil, "want https://host[:port] as %s", what)
	}
	fault(strings.TrimSpace(c.ClientID) == "", "the application id of kubelogin is missing (authn.clientIDs)")
	fault(len(c.CA) > 0 && len(certificates(c.CA)) == 0, "the CA of the API server holds no certificate (cluster.publicCAFile)")
	fault(len(c.IssuerCA) > 0 && len(certificates(c.IssuerCA)) == 0, "the CA of GitLab holds no certificate (gitlab.caFile)")
	for _, ns := range c.Namespaces {
		fault(len(validation.IsDNS1123Label(ns)) > 0, "%q is not the name of a namespace", ns)
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(faults...)
}

// certificates returns the certificates of a PEM file, and nothing else that may stand in it, such as a key.
func certificates(bundle []byte) (out []byte) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out
}

var givenName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.:]{0,251}[a-z0-9])?$`)

// CheckName says what is wrong with the name of a cluster: it goes into names that people type, before a slash.
func CheckName(s string) error {
	if !givenName.MatchString(s) {
		return fmt.Errorf("want lower-case letters, digits, -, . and :, and a letter or digit at both ends, not %q", s)
	}
	return nil
}

// unusual is what the host of a URL may have and a name may not.
var unusual = regexp.MustCompile(`[^-a-z0-9.:]`)

// NameOf returns a name for the cluster at a URL, different for different clusters: the host, and the port unless that is
// 6443. What is left of the URL is told apart by a digest.
func NameOf(apiServer string) string {
	u, err := url.Parse(apiServer)
	if err != nil || u.Host == "" {
		return "cluster"
	}
	name := strings.ToLower(u.Hostname())
	switch port := u.Port(); {
	case port == "" && u.Scheme == "http":
		name += ":80"
	case port == "":
		name += ":443"
	case port != "6443":
		name += ":" + port
	}
	path := strings.Trim(u.Path, "/")
	if plain := strings.Trim(unusual.ReplaceAllString(name, ""), "-.:"); plain != name || path != "" || CheckName(plain) != nil {
		name = cmp.Or(shorten(plain), "cluster") + ":" + digest(name+"/"+path)
	}
	return name
}

// shorten keeps a name below CheckName's limit.
func shorten(s string) string { return strings.TrimRight(s[:min(len(s), 200)], "-.:") }

// digest tells texts apart that make the same name.
func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:4])
}
