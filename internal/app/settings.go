package app

import (
	"fmt"
	"os"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// settings says what managed namespaces look like.
func settings(cfg *config.Config) (rbacsync.Settings, error) {
	s := rbacsync.Settings{
		PodSecurity: cfg.RBACSync.PodSecurity, PodSecurityFor: map[authz.SourceID]string{},
		CI: ciSettings(cfg),
	}
	for _, e := range cfg.RBACSync.PodSecurityExceptions {
		if id, ok := config.ParseSource(e.Source); ok {
			s.PodSecurityFor[id] = e.Level
		}
	}
	if cfg.RBACSync.Deletion.Policy == config.DeletionDelete {
		s.DeleteAfter = cfg.RBACSync.Deletion.Grace.Duration
	}
	for _, a := range cfg.RBACSync.Adopt {
		if id, ok := config.ParseSource(a.Source); ok {
			s.Adopt = append(s.Adopt, rbacsync.Adoption{Namespace: a.Namespace, Source: id, Path: a.Path})
		}
	}
	var err error
	s.Templates, err = templates(cfg)
	return s, err
}

// templates reads the manifests that namespaces get; nil without a folder.
func templates(cfg *config.Config) (*rbacsync.Templates, error) {
	c := cfg.RBACSync.Templates
	if c.Folder == "" {
		return nil, nil //nolint:nilnil // no templates is a good answer
	}
	kinds, err := templateKinds(cfg)
	if err != nil {
		return nil, err
	}
	t, err := rbacsync.LoadTemplates(os.DirFS(c.Folder), kinds)
	if err != nil {
		return nil, fmt.Errorf("rbacsync.templates.folder %s:\n  %s", c.Folder, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return t, nil
}

func templateKinds(cfg *config.Config) ([]rbacsync.TemplateKind, error) {
	kinds := make([]rbacsync.TemplateKind, 0, len(cfg.RBACSync.Templates.Kinds))
	for _, k := range cfg.RBACSync.Templates.Kinds {
		kind, err := rbacsync.ParseTemplateKind(k)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}

// CheckFiles checks what a configuration refers to: the templates. The configuration may have faults, which config.Load
// has told: templates are not judged by kinds that can't be read.
func CheckFiles(cfg *config.Config) error {
	if _, err := templateKinds(cfg); err != nil {
		return nil
	}
	_, err := templates(cfg)
	return err
}

func limits(cfg *config.Config) *rbacsync.Limits {
	l := cfg.RBACSync.Limits
	if l.Disabled {
		return nil
	}
	return &rbacsync.Limits{
		PerGroup: rbacsync.Limit{Causes: l.PerGroup.Count, Fraction: l.PerGroup.Fraction},
		Overall:  rbacsync.Limit{Causes: l.Overall.Count, Fraction: l.Overall.Fraction},
		Policy:   rbacsync.Limit{Causes: l.Policy.Count, Fraction: l.Policy.Fraction},
		Window:   l.Window.Duration, Creations: l.CreationsPerHour, Exempt: l.CreationsExempt,
	}
}

// ciSettings says which project deploys where, and by which delivery.
func ciSettings(cfg *config.Config) rbacsync.CISettings {
	s := rbacsync.CISettings{
		Mode: rbacsync.Delivery(cfg.CI.Delivery), Unprotected: map[int64]bool{}, Explain: cfg.CI.Explain, TokenInFile: cfg.CI.KubeconfigToken == config.TokenInFile,
	}
	for _, id := range cfg.CI.UnprotectedProjects {
		s.Unprotected[id] = true
	}
	for _, e := range cfg.CI.Projects {
		if id, ok := config.ParseSource(e.Source); ok {
			x := rbacsync.CIException{Source: id, Path: e.Path, Mode: rbacsync.Delivery(e.Delivery), Target: rbacsync.Target(e.Namespace), Explain: e.Explain}
			if e.KubeconfigToken != "" {
				inFile := e.KubeconfigToken == config.TokenInFile
				x.TokenInFile = &inFile
			}
			s.Exceptions = append(s.Exceptions, x)
		}
	}
	return s
}

// shownVariables says which variables the reader of GitLab tells, without values: those that CI credentials are in.
func shownVariables(cfg *config.Config) gitlab.CIVariables {
	if cfg.GitLab.WriteTokenFile == "" {
		return gitlab.CIVariables{}
	}
	return gitlab.CIVariables{Scope: cfg.CI.Environment, Keys: ci.Keys()}
}
