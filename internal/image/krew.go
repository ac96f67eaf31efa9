package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// krewName is the manifest by which krew installs the plug-in (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest).
const krewName = "gitlab.yaml"

// nowhere is the URL of the files of a release as long as nobody said where they will be: krew wants one, and does not look
// at it when it is given an archive.
const nowhere = "https://gl-k8s-integrator.invalid"

var krewManifest = template.Must(template.New(krewName).Parse(`apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: gitlab
spec:
  version: {{.Version}}
  homepage: https://github.com/gl-k8s-integrator/gl-k8s-integrator
  shortDescription: Your rights on a cluster that follows GitLab
  description: |
    Who you are to a cluster whose rights follow GitLab, which namespaces are yours,
    what you may do there and why, and what the CI jobs of your project get.
    Tells you about yourself alone, and asks the cluster as you.
  caveats: |
    It logs in by the kubeconfig that you have from your cluster's page or
    administrators, with kubelogin: kubectl krew install oidc-login
  platforms:
{{- range .Programs}}
  - selector:
      matchLabels: {os: {{.OS}}, arch: {{.Arch}}}
    uri: {{$.URL}}/{{.Folder}}.tar.gz
    sha256: {{.Sum}}
    bin: {{.File}}
    files:
    - {from: {{.Folder}}/{{.File}}, to: .}
    - {from: {{.Folder}}/LICENSE, to: .}
{{- end}}
`))

// krew writes the manifest of the plug-in's archives.
func (r *releasing) krew(programs []program) error {
	type archive struct{ OS, Arch, Folder, File, Sum string }
	fields := struct {
		Version, URL string
		Programs     []archive
	}{Version: r.version, URL: strings.TrimSuffix(r.url, "/")}
	if fields.URL == "" {
		fields.URL = nowhere
	}
	for _, p := range programs {
		content, err := os.ReadFile(filepath.Join(r.out, r.folder(p)+".tar.gz"))
		if err != nil {
			return fmt.Errorf("reading an archive for krew's manifest: %w", err)
		}
		fields.Programs = append(fields.Programs, archive{p.os, p.arch, r.folder(p), p.file(), fmt.Sprintf("%x", sha256.Sum256(content))})
	}
	var out strings.Builder
	if err := krewManifest.Execute(&out, fields); err != nil {
		return fmt.Errorf("making krew's manifest: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.out, krewName), []byte(out.String()), 0o644); err != nil {
		return fmt.Errorf("writing krew's manifest: %w", err)
	}
	return nil
}
