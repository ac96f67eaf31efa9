package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// rootsModule is where the CA certificates in the image are from.
const rootsModule = "golang.org/x/crypto/x509roots/fallback"

// writeSBOM writes what is in the image, as SPDX 2.3: the programs, and what each was built from, which the Go linker has
// written into it.
func writeSBOM(o options, programs []program, digest, path string) error {
	image := &spdx.Package{
		PackageName: "gl-k8s-integrator", PackageSPDXIdentifier: "image", PackageVersion: o.version, PackageDownloadLocation: "NOASSERTION",
		PrimaryPackagePurpose: "CONTAINER", PackageLicenseConcluded: "NOASSERTION", PackageLicenseDeclared: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: strings.TrimPrefix(digest, "sha256:")}},
	}
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: "gl-k8s-integrator-" + o.version,
		DocumentNamespace: "https://github.com/gl-k8s-integrator/gl-k8s-integrator/spdx/" + strings.ReplaceAll(digest, ":", "-"),
		CreationInfo:      &spdx.CreationInfo{Created: o.created.Format(time.RFC3339), Creators: []common.Creator{{CreatorType: "Tool", Creator: "gl-k8s-integrator-image"}}},
		Packages:          []*spdx.Package{image},
	}
	relate := func(a, b common.ElementID, kind string) {
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: kind,
		})
	}
	relate("DOCUMENT", "image", common.TypeRelationshipDescribe)
	modules := map[common.ElementID]*spdx.Package{}
	for _, p := range programs {
		content, err := os.ReadFile(p.path)
		if err != nil {
			return fmt.Errorf("reading the program: %w", err)
		}
		sum := sha256.Sum256(content)
		binary := module(p.info.Main.Path, o.version)
		binary.PackageSPDXIdentifier = common.ElementID("program-" + p.arch)
		binary.PackageFileName = programPath
		binary.PrimaryPackagePurpose = "APPLICATION"
		binary.PackageComment = "linux/" + p.arch
		binary.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: hex.EncodeToString(sum[:])}}
		doc.Packages = append(doc.Packages, binary)
		relate("image", binary.PackageSPDXIdentifier, common.TypeRelationshipContains)
		for _, m := range dependencies(p.info) {
			modules[m.PackageSPDXIdentifier] = m
			relate(binary.PackageSPDXIdentifier, m.PackageSPDXIdentifier, common.TypeRelationshipDependsOn)
		}
	}
	own, ok := debug.ReadBuildInfo()
	if !ok {
		return fmt.Errorf("finding the version of %s: this program has no build information", rootsModule)
	}
	for _, d := range own.Deps {
		if d.Path == rootsModule {
			m := module(d.Path, d.Version)
			modules[m.PackageSPDXIdentifier] = m
			relate("image", m.PackageSPDXIdentifier, common.TypeRelationshipContains)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(modules)) {
		doc.Packages = append(doc.Packages, modules[id])
	}
	var out bytes.Buffer
	if err := spdxjson.Write(doc, &out, spdxjson.Indent("  ")); err != nil {
		return fmt.Errorf("writing the list of contents: %w", err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the list of contents: %w", err)
	}
	return nil
}

// dependencies returns the modules that a program was built from, Go's standard library among them.
func dependencies(info *debug.BuildInfo) []*spdx.Package {
	out := []*spdx.Package{module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		out = append(out, module(d.Path, d.Version))
	}
	return out
}

// notInID is what an SPDX identifier can't have (SPDX 2.3, 7.2).
var notInID = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

// module describes a Go module; stdlib is the name by which databases of vulnerabilities know the standard library.
func module(path, version string) *spdx.Package {
	return &spdx.Package{
		PackageName: path, PackageVersion: version, PackageSPDXIdentifier: common.ElementID("go-" + notInID.ReplaceAllString(path+"-"+version, "-")),
		PackageDownloadLocation: "NOASSERTION", PackageLicenseConcluded: "NOASSERTION", PackageLicenseDeclared: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:golang/" + strings.ToLower(path) + "@" + strings.ReplaceAll(version, "+", "%2B"),
		}},
	}
}
