#include "optiq/checkpoint/hub.h"

#include <stdlib.h>
#include <sys/file.h>

#include <chrono>

#include "optiq/checkpoint/hub/hub_cache.h"
#include "optiq/checkpoint/hub/hub_names.h"
#include "optiq/checkpoint/hub/sha256.h"
#include "optiq/checkpoint/hub/test_server.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kModel = "org/tiny-model";
const std::string kCommit(40, 'c');

std::string sha256(const std::string& text) {
  Sha256 sha;
  sha.update(std::as_bytes(std::span(text.data(), text.size())));
  return sha.hex();
}

// A hub with one model; what goes wrong is said by its fields.
class FakeHub {
 public:
  FakeHub()
      : store_([this](const TestRequest& request) { return serve_store(request); }),
        server_([this](const TestRequest& request) { return serve_hub(request); }) {
    files["config.json"] = R"({"model_type":"llama"})";
    files["tokenizer.json"] = "{}";
    files["chat_template.jinja"] = "{{ x }}";
    files["README.md"] = "# tiny";
    files["pytorch_model.bin"] = "never fetched";
    files["optiq/metadata.json"] = "{}";
    for (int i = 0; i < 300'000; ++i) weights += static_cast<char>(i * 7 % 251);
    files["model.safetensors"] = weights;
    served_weights = weights;
  }

  const TestServer& server() const { return server_; }
  const TestServer& store() const { return store_; }

  std::map<std::string, std::string> files;
  std::string weights;
  std::string served_weights;           // what the store really sends
  std::vector<std::string> more_names;  // in the listing alone
  std::atomic<int> status{200};         // of every answer of the hub
  std::atomic<int> failures{0};         // answers 503 this many times
  std::atomic<int> cuts{0};             // breaks off this many transfers of the weights
  bool lists_blobs = false;
  bool knows_ranges = true;
  std::map<std::string, std::string> error_headers;

 private:
  TestResponse serve_hub(const TestRequest& request) {
    if (status != 200) return {status, error_headers, "no"};
    if (failures > 0) {
      --failures;
      return {503, {}, "busy"};
    }
    const std::string api = std::string("/api/models/") + kModel + "/revision/";
    if (request.path.starts_with(api)) return {200, {}, listing()};
    const std::string resolve = std::string("/") + kModel + "/resolve/" + kCommit + "/";
    if (!request.path.starts_with(resolve)) return {404, {}, "no such page"};
    const std::string name = request.path.substr(resolve.size());
    if (!files.contains(name)) return {404, {}, "no such file"};
    if (name == "model.safetensors")
      return {302,
              {{"Location", store_.url() + "/blob?signature=1"},
               {"X-Linked-Etag", "\"" + sha256(weights) + "\""},
               {"X-Linked-Size", std::to_string(weights.size())}},
              ""};
    return {200, {{"ETag", "W/\"" + git_name(name) + "\""}}, files[name]};
  }

  TestResponse serve_store(const TestRequest& request) {
    std::size_t begin = 0;
    TestResponse response;
    if (const std::string range = request.header("range");
        knows_ranges && range.starts_with("bytes=")) {
      begin = std::stoul(range.substr(6));
      if (begin >= served_weights.size()) return {416, {}, ""};
      response.status = 206;
      response.headers["Content-Range"] = fmt::format(
          "bytes {}-{}/{}", begin, served_weights.size() - 1, served_weights.size());
    }
    response.body = served_weights.substr(begin);
    if (cuts > 0) {
      --cuts;
      response.cut_after = 100'000;
    }
    return response;
  }

  std::string listing() const {
    json siblings = json::array();
    for (const auto& [name, text] : files) {
      json sibling = {{"rfilename", name}};
      if (lists_blobs) {
        sibling["size"] = text.size();
        sibling["blobId"] = git_name(name);
        if (name == "model.safetensors") sibling["lfs"] = {{"sha256", sha256(weights)}};
      }
      siblings.push_back(sibling);
    }
    for (const std::string& name : more_names)
      siblings.push_back({{"rfilename", name}});
    return json{{"sha", kCommit}, {"siblings", siblings}}.dump();
  }

  std::string git_name(const std::string& name) const {
    return sha256(files.at(name)).substr(0, 40);
  }

  TestServer store_;  // another origin, as the hub's storage is
  TestServer server_;
};

class HubTest : public ::testing::Test {
 protected:
  HubTest() {
    for (const char* name : {"no_proxy", "NO_PROXY"}) ::setenv(name, "127.0.0.1", 1);
    options_.cache = directory_ / "hub";
    options_.endpoint = hub_.server().url();
    options_.backoff = std::chrono::milliseconds(1);
    options_.retries = 2;
  }

  fs::path blobs() const { return options_.cache / "models--org--tiny-model/blobs"; }
  std::string resource_error() {
    return message_of<ResourceError>([&] { pull(kModel, options_); });
  }

  TemporaryDirectory directory_;
  FakeHub hub_;
  HubOptions options_;
};

TEST(Sha256, AgreesWithThePublishedVectors) {
  EXPECT_EQ(sha256(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  const std::string text(200, 'x');
  for (std::size_t i = 0; i < text.size(); i += 7)
    pieces.update(std::as_bytes(
        std::span(text).subspan(i, std::min<std::size_t>(7, text.size() - i))));
  EXPECT_EQ(pieces.hex(), sha256(text));
}

TEST(HubNames, OnlyPlainIdsRevisionsAndFilesAreTaken) {
  for (const char* id : {"Qwen/Qwen3.5-9B", "a/b", "mlx-community/x_y.z"})
    EXPECT_TRUE(is_hub_id(id)) << id;
  for (const char* id : {"", "a", "a/", "/a", "a/b/c", "../a", "a/..", "a/b--c", "a/.b",
                         "a/b..c", "a/b c", "a\\b/c", "~/a", "a/b?x=1", "a/b\n", "./a"})
    EXPECT_FALSE(is_hub_id(id)) << id;
  for (const char* revision : {"main", "v1.0", "refs/pr/1", "0123abc"})
    EXPECT_TRUE(is_revision(revision)) << revision;
  for (const char* revision : {"", "/", "../x", "a//b", "a/../b", "a b", "main/"})
    EXPECT_FALSE(is_revision(revision)) << revision;
  for (const char* file : {"a.json", "optiq/metadata.json", "x y.json"})
    EXPECT_TRUE(is_repository_file(file)) << file;
  for (const char* file :
       {"", "/etc/passwd", "../a", "a/../../b", "a//b", "a\\..\\b", "a\nb", ".", "a/."})
    EXPECT_FALSE(is_repository_file(file)) << file;
  for (const char* etag : {"", "..", "a/b", "../../x", ".hidden", "x.incomplete"})
    EXPECT_FALSE(is_blob_name(etag)) << etag;
}

TEST(HubNames, OnlyTheFilesOfAModelAreWanted) {
  EXPECT_EQ(
      wanted_files({"config.json", "model.safetensors", "consolidated.safetensors",
                    "pytorch_model.bin", "model.gguf", "merges.txt", "LICENSE.txt",
                    "onnx/config.json", "optiq/sensitivity.json", ".gitattributes",
                    "chat_template.jinja", "README.md", "setup.py"}),
      (std::vector<std::string>{"LICENSE.txt", "README.md", "chat_template.jinja",
                                "merges.txt", "model.safetensors",
                                "optiq/sensitivity.json", "config.json"}));
}

TEST_F(HubTest, AModelIsFetchedIntoTheLayoutOfTheCache) {
  for (const bool lists_blobs : {false, true}) {
    hub_.lists_blobs = lists_blobs;
    options_.cache = directory_ / (lists_blobs ? "hub1" : "hub0");
    std::vector<HubProgress> progress;
    options_.on_progress = [&](const HubProgress& p) { progress.push_back(p); };
    const fs::path snapshot = pull(kModel, options_);
    EXPECT_EQ(snapshot, options_.cache / "models--org--tiny-model/snapshots" / kCommit);
    for (const auto& [name, text] : hub_.files)
      if (name != "pytorch_model.bin") {
        EXPECT_EQ(read_text(snapshot / name), text) << name;
        EXPECT_TRUE(fs::is_symlink(snapshot / name));
      }
    EXPECT_FALSE(fs::exists(snapshot / "pytorch_model.bin"));
    EXPECT_EQ(fs::read_symlink(snapshot / "model.safetensors"),
              fs::path("../../blobs") / sha256(hub_.weights));
    EXPECT_EQ(read_text(options_.cache / "models--org--tiny-model/refs/main"), kCommit);
    ASSERT_FALSE(progress.empty());
    EXPECT_EQ(progress.back().done_bytes, progress.back().total_bytes);
    EXPECT_GT(progress.back().total_bytes, hub_.weights.size());
  }
}

TEST_F(HubTest, WhatIsInTheCacheIsNotFetchedAgain) {
  pull(kModel, options_);
  const std::size_t before = hub_.store().requests().size();
  pull(kModel, options_);
  EXPECT_EQ(hub_.store().requests().size(), before);
  const std::size_t asked = hub_.server().requests().size();
  resolve_model(kModel, options_);
  EXPECT_EQ(hub_.server().requests().size(), asked);
}

TEST_F(HubTest, AnAdapterIsWholeWithoutAConfigOfAModel) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"})
    hub_.files.erase(name);
  hub_.files["adapters.safetensors"] = "tensors";
  hub_.files["adapter_config.json"] = "{}";
  const fs::path snapshot = resolve_model(kModel, options_);
  EXPECT_EQ(read_text(snapshot / "adapters.safetensors"), "tensors");
  options_.offline = true;  // it is known to be whole
  EXPECT_EQ(resolve_model(kModel, options_), snapshot);
  fs::remove(snapshot / "adapter_config.json");
  EXPECT_THROW(resolve_model(kModel, options_), ResourceError);
}

TEST_F(HubTest, ABrokenTransferGoesOnWhereItStopped) {
  hub_.cuts = 2;
  const fs::path snapshot = pull(kModel, options_);
  EXPECT_EQ(read_text(snapshot / "model.safetensors"), hub_.weights);
  const auto requests = hub_.store().requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].header("range"), "");
  EXPECT_EQ(requests[1].header("range"), "bytes=100000-");
  EXPECT_EQ(requests[2].header("range"), "bytes=200000-");
}

TEST_F(HubTest, TheNextRunGoesOnWhereTheLastStopped) {
  fs::create_directories(blobs());
  write_text(blobs() / (sha256(hub_.weights) + ".incomplete"),
             hub_.weights.substr(0, 250'000));
  const fs::path snapshot = pull(kModel, options_);
  EXPECT_EQ(read_text(snapshot / "model.safetensors"), hub_.weights);
  EXPECT_EQ(hub_.store().requests().at(0).header("range"), "bytes=250000-");
}

TEST_F(HubTest, AServerWithoutRangesStartsOver) {
  hub_.knows_ranges = false;
  hub_.cuts = 1;
  EXPECT_EQ(read_text(pull(kModel, options_) / "model.safetensors"), hub_.weights);
}

TEST_F(HubTest, ALeftoverOfAnotherFileIsThrownAway) {
  fs::create_directories(blobs());
  write_text(blobs() / (sha256(hub_.weights) + ".incomplete"), "not these bytes");
  EXPECT_EQ(read_text(pull(kModel, options_) / "model.safetensors"), hub_.weights);
}

TEST_F(HubTest, BytesWithAnotherHashAreNeverKept) {
  hub_.served_weights[12345] ^= 1;
  expect_mentions(message_of<CheckpointError>([&] { pull(kModel, options_); }),
                  {"model.safetensors", "SHA-256", sha256(hub_.weights).c_str()});
  for (const auto& entry : fs::directory_iterator(blobs()))
    EXPECT_EQ(entry.path().string().find(sha256(hub_.weights)), std::string::npos);
  EXPECT_THROW(
      {
        options_.offline = true;
        resolve_model(kModel, options_);
      },
      ResourceError);
}

TEST_F(HubTest, MoreBytesThanAnnouncedAreAnError) {
  hub_.served_weights += "more";
  expect_mentions(message_of<CheckpointError>([&] { pull(kModel, options_); }),
                  {"model.safetensors", "300000", "more"});
}

TEST_F(HubTest, TheTokenIsShownToTheHubAlone) {
  options_.token = "hf_secret";
  pull(kModel, options_);
  for (const TestRequest& request : hub_.server().requests())
    EXPECT_EQ(request.header("authorization"), "Bearer hf_secret") << request.path;
  ASSERT_FALSE(hub_.store().requests().empty());
  for (const TestRequest& request : hub_.store().requests())
    EXPECT_EQ(request.header("authorization"), "");
}

TEST_F(HubTest, RefusalsSayWhatToDo) {
  hub_.status = 401;
  expect_mentions(resource_error(),
                  {"'org/tiny-model'", "access denied", "401", "HF_TOKEN"});
  hub_.status = 403;
  expect_mentions(resource_error(), {"access denied", "403", "gated"});
  hub_.status = 404;
  expect_mentions(resource_error(), {"not found", "'main'"});
  hub_.status = 401;
  hub_.error_headers["X-Error-Code"] = "RepoNotFound";
  expect_mentions(resource_error(), {"not found"});
  EXPECT_FALSE(fs::exists(options_.cache));
}

TEST_F(HubTest, ABusyHubIsAskedAgainUntilTheRetriesAreUsedUp) {
  hub_.failures = 2;
  EXPECT_NO_THROW(pull(kModel, options_));
  hub_.failures = 3;
  expect_mentions(resource_error(), {"cannot reach", "503", "HF_ENDPOINT"});
}

TEST_F(HubTest, NoNetworkIsOneClearError) {
  {
    TestServer gone([](const TestRequest&) { return TestResponse{}; });
    options_.endpoint = gone.url();
  }
  expect_mentions(resource_error(), {"cannot reach", options_.endpoint.c_str()});
}

TEST_F(HubTest, OfflineModeUsesTheCacheAndAsksNobody) {
  options_.offline = true;
  expect_mentions(resource_error(), {"'org/tiny-model'", "cache", "HF_HUB_OFFLINE"});
  EXPECT_TRUE(hub_.server().requests().empty());
  options_.offline = false;
  const fs::path snapshot = pull(kModel, options_);
  options_.offline = true;
  EXPECT_EQ(pull(kModel, options_), snapshot);
  EXPECT_EQ(resolve_model(kModel, options_), snapshot);
  EXPECT_EQ(resolve_model(kModel, options_, kCommit), snapshot);
  fs::remove(blobs() / sha256(hub_.weights));  // a snapshot that is half there
  EXPECT_THROW(resolve_model(kModel, options_), ResourceError);
}

TEST_F(HubTest, HostileNamesAreRefusedAndNothingIsWritten) {
  for (const char* name : {"../../evil.json", "/etc/evil.json", "a/../../b.json"}) {
    hub_.more_names = {name};
    expect_mentions(message_of<CheckpointError>([&] { pull(kModel, options_); }),
                    {"refused", name});
  }
  EXPECT_FALSE(fs::exists(options_.cache));
  for (const char* id : {"../x", "a/../b", "/etc", "org"})
    EXPECT_THROW(pull(id, options_), std::invalid_argument) << id;
  EXPECT_THROW(pull(kModel, options_, "../main"), std::invalid_argument);
  EXPECT_EQ(fs::directory_iterator(directory_.path()), fs::directory_iterator());
}

TEST_F(HubTest, ACancelledDownloadStopsAndKeepsItsPart) {
  int calls = 0;
  options_.on_progress = [&](const HubProgress&) { ++calls; };
  options_.is_cancelled = [&] { return calls > 3; };
  EXPECT_THROW(pull(kModel, options_), Interrupted);
  options_.is_cancelled = nullptr;
  EXPECT_NO_THROW(pull(kModel, options_));
}

TEST_F(HubTest, AnotherProcessWithTheLockIsWaitedFor) {
  const HubCache cache(options_.cache, kModel);
  cache.create();
  const FileLock held(cache.lock_file(sha256(hub_.weights)), nullptr);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  options_.is_cancelled = [&] { return std::chrono::steady_clock::now() > end; };
  EXPECT_THROW(pull(kModel, options_), Interrupted);
  EXPECT_FALSE(fs::exists(cache.blob(sha256(hub_.weights))));
}

TEST_F(HubTest, ALocalDirectoryIsTakenAsItIs) {
  EXPECT_EQ(resolve_model(directory_.path().string(), options_), directory_.path());
  write_text(directory_ / "file", "x");
  for (const std::string& model :
       {(directory_ / "file").string(), (directory_ / "missing").string(),
        std::string("nowhere")})
    EXPECT_THROW(resolve_model(model, options_), std::invalid_argument) << model;
  EXPECT_TRUE(hub_.server().requests().empty());
}

TEST_F(HubTest, ASnapshotIsCopiedAsOrdinaryFiles) {
  copy_snapshot(pull(kModel, options_), directory_ / "out");
  EXPECT_FALSE(fs::is_symlink(directory_ / "out/model.safetensors"));
  EXPECT_EQ(read_text(directory_ / "out/model.safetensors"), hub_.weights);
  EXPECT_EQ(read_text(directory_ / "out/optiq/metadata.json"), "{}");
}

TEST_F(HubTest, ACopyReplacesAnEarlierCopyAndNoOtherModel) {
  const fs::path snapshot = pull(kModel, options_);
  copy_snapshot(snapshot, directory_ / "out");
  EXPECT_NO_THROW(copy_snapshot(snapshot, directory_ / "out"));
  fs::create_directory(directory_ / "mine");
  write_text(directory_ / "mine/config.json", "{}");
  EXPECT_THROW(copy_snapshot(snapshot, directory_ / "mine"), std::invalid_argument);
  EXPECT_EQ(read_text(directory_ / "mine/config.json"), "{}");
}

TEST(HubEnvironment, PathsAndTokensComeFromWherePythonLooks) {
  const TemporaryDirectory directory;
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
                           "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH",
                           "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})
    ::unsetenv(name);
  ::setenv("XDG_CACHE_HOME", directory.path().c_str(), 1);
  fs::create_directories(directory / "huggingface");
  write_text(directory / "huggingface/token", "hf_file\n");
  HubOptions options = hub_options_from_environment();
  EXPECT_EQ(options.cache, directory / "huggingface/hub");
  EXPECT_EQ(options.token, "hf_file");
  EXPECT_FALSE(options.offline);
  EXPECT_TRUE(options.endpoint.starts_with("https://"));

  ::setenv("HF_HOME", "/hf", 1);
  ::setenv("HF_TOKEN", " hf_env ", 1);
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  ::setenv("HF_ENDPOINT", "http://127.0.0.1:1/", 1);
  options = hub_options_from_environment();
  EXPECT_EQ(options.cache, "/hf/hub");
  EXPECT_EQ(options.token, "hf_env");
  EXPECT_TRUE(options.offline);
  EXPECT_EQ(options.endpoint, "http://127.0.0.1:1");
  ::setenv("HF_TOKEN", "a\r\nX: y", 1);
  EXPECT_THROW(hub_options_from_environment(), std::invalid_argument);
  ::unsetenv("HF_TOKEN");
  ::setenv("HF_ENDPOINT", "ftp://x", 1);
  EXPECT_THROW(hub_options_from_environment(), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::checkpoint
