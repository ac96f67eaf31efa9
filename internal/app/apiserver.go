package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/structured"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// Forms of what APIServerConfig prints.
const (
	FormStructured = "structured" // kube-apiserver's AuthenticationConfiguration
	FormFlags      = "flags"      // kube-apiserver's --oidc flags
	FormEKS        = "eks"        // an identity provider of EKS
)

// APIServerFolder is where the files for kube-apiserver are on a control-plane node, unless something else is said.
const APIServerFolder = "/etc/kubernetes/gl-k8s-integrator"

// structuredHead stands above the AuthenticationConfiguration.
const structuredHead = `# For kube-apiserver's flag --authentication-config. Made by gl-k8s-integrator apiserver-config: make it anew when
# gitlab, authn, ci.environment or ci.unprotectedProjects change. On Kubernetes 1.30 to 1.33 the apiVersion ends in v1beta1.
`

// APIServerConfig prints what lets kube-apiserver judge GitLab's tokens by itself, in one of the forms. What the form
// can't hold is logged. folder is where the CA of GitLab will be on the control-plane node, eksCluster the name of a cluster
// of EKS.
func APIServerConfig(cfg *config.Config, form, folder, eksCluster string, log *slog.Logger, out io.Writer) error {
	var ca []byte
	if cfg.GitLab.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(cfg.GitLab.CAFile); err == nil {
			err = holdsCertificates(ca)
		}
		if err != nil {
			return fmt.Errorf("reading gitlab.caFile %s: %w: name the PEM file with the CA of GitLab's certificate", cfg.GitLab.CAFile, err)
		}
	}
	if cfg.Authn.Require.MappedRight || len(cfg.Authn.Require.Groups) > 0 {
		log.Warn("authn.require does not hold there: kube-apiserver lets every person with an account in GitLab in; rights are in RoleBindings alone")
	}
	if cfg.Authn.Keys.URL != "" || cfg.Authn.Keys.File != "" {
		log.Warn("authn.keys is not used there: kube-apiserver finds GitLab's keys by its discovery document at gitlab.url, which it must reach", "gitlab", cfg.GitLab.URL)
	}
	rules := tokenRules(cfg)
	var text []byte
	var err error
	switch form {
	case FormFlags:
		caFile := ""
		if len(ca) > 0 {
			caFile = filepath.Join(folder, "gitlab-ca.crt")
			log.Warn("copy gitlab.caFile to each control-plane node", "from", cfg.GitLab.CAFile, "to", caFile)
		}
		text, err = structured.Flags(rules, caFile)
	case FormEKS:
		if len(ca) > 0 {
			log.Warn("EKS takes no CA: GitLab's certificate must be one that everybody trusts", "caFile", cfg.GitLab.CAFile)
		}
		text, err = structured.EKS(rules, eksCluster)
	default:
		if text, err = structured.Configuration(rules, ca); err == nil {
			text = append([]byte(structuredHead), text...)
		}
	}
	if err != nil {
		return fmt.Errorf("saying to kube-apiserver whose tokens count: %w", err)
	}
	if form != FormStructured && rules.CIAudience != "" {
		log.Warn("this form is for people alone: jobs with delivery id-token are not let in by it")
	}
	_, err = out.Write(text)
	return err
}

// FenceFiles writes the admission policies as files of kube-apiserver into a folder, where folder is its place on a
// control-plane node, and tells what it wrote. A file that this command did not make is left alone.
func FenceFiles(cfg *config.Config, dir, folder string, out io.Writer) error {
	files, err := deploy.Files(folder, clusterRoles(cfg))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		old, err := os.ReadFile(filepath.Join(dir, f.Name))
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case !strings.HasPrefix(string(old), deploy.FilesMark):
			errs = append(errs, fmt.Errorf("%s was not made by this command, and stays: choose another folder, or merge both by hand", filepath.Join(dir, f.Name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("writing the fence for kube-apiserver: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // nothing in it is secret
			return fmt.Errorf("writing the fence for kube-apiserver: %w", err)
		}
		if err := os.WriteFile(path+".new", f.Content, 0o644); err != nil {
			return fmt.Errorf("writing the fence for kube-apiserver: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("writing the fence for kube-apiserver: %w", err)
		}
		fmt.Fprintln(out, path)
	}
	return nil
}

// clusterRoles returns the ClusterRoles that the configuration gives.
func clusterRoles(cfg *config.Config) []string {
	var names []string
	for _, r := range cfg.Authz.Roles {
		names = append(names, r.ClusterRole)
	}
	for _, r := range cfg.Authz.Extra {
		names = append(names, r.ClusterRole)
	}
	return names
}
