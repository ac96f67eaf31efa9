// Prints how gitlab-ci-local reads the .gitlab-ci.yml of several folders: folder -> {error} or {jobs}.
// Arguments: the folder that gitlab-ci-local is installed in, a JSON list of project variables (KEY=value), the folders.
import {pathToFileURL} from "url";
import path from "path";

const [installed, variables, ...folders] = process.argv.slice(2);
const part = (name) => import(pathToFileURL(path.join(installed, "node_modules/gitlab-ci-local/src", name)).href);
const [{handler}, {WriteStreamsMock}, {Utils}] = [await part("handler.js"), await part("write-streams.js"), await part("utils.js")];

const out = {};
for (const cwd of folders) {
    const jobs = [];
    try {
        // Compiling the schema takes most of the time, and only tells what is wrong.
        const jsonSchemaValidation = path.basename(cwd).startsWith("bad-");
        await handler({cwd, listJson: true, jsonSchemaValidation, variable: JSON.parse(variables)}, new WriteStreamsMock(), jobs);
        out[cwd] = {jobs: jobs.map((j) => ({
            name: j.name, stage: j.stage, when: j.when,
            script: [...j.beforeScripts, ...j.scripts], after: j.afterScripts,
            needs: (j.needs ?? []).map((n) => n.job + (n.optional ? "?" : "")),
            environment: j.environment ? [j.environment.name, j.environment.url ?? "", j.environment.action ?? "start", j.environment.deployment_tier ?? ""] : null,
            variables: Utils.unscape$$Variables(Utils.expandVariables(j._variables)),
        }))};
    } catch (e) {
        out[cwd] = {error: e.message};
    }
}
process.stdout.write(JSON.stringify(out));
