#include "optiq/base/file.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "optiq/base/error.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = (fs::temp_directory_path() / "optiq-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~FileTest() override { fs::remove_all(directory_); }

  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text;
    return directory_ / name;
  }
  std::string read(const fs::path& file) { return read_file(file, 1000); }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(directory_), fs::directory_iterator()));
  }

  fs::path directory_;
};

TEST_F(FileTest, AFileLargerThanTheLimitIsNotRead) {
  const fs::path file = write("f", "12345");
  EXPECT_EQ(read_file(file, 5), "12345");
  EXPECT_THROW(read_file(file, 4), CheckpointError);
}

TEST_F(FileTest, WhatIsNotARegularFileIsAnErrorAndDoesNotHang) {
  EXPECT_THROW(read_file(directory_ / "missing", 10), CheckpointError);
  EXPECT_THROW(read_file(directory_, 10), CheckpointError);
  ASSERT_EQ(::mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(read_file(directory_ / "pipe", 10), CheckpointError);
  EXPECT_THROW(MappedFile::open(directory_ / "pipe"), CheckpointError);
  EXPECT_THROW(MappedFile::open(directory_ / "missing"), CheckpointError);
  EXPECT_THROW(MappedFile::open(directory_), CheckpointError);
}

TEST_F(FileTest, AMapHasTheBytesOfTheFile) {
  const auto file = MappedFile::open(write("f", "abcdef"));
  ASSERT_EQ(file->bytes().size(), 6u);
  EXPECT_EQ(static_cast<char>(file->bytes()[5]), 'f');
  std::byte two[2];
  file->read(3, two);
  EXPECT_EQ(static_cast<char>(two[0]), 'd');
  file->advise_sequential();
  file->advise_dont_need(0, 6);
  EXPECT_EQ(static_cast<char>(file->bytes()[0]), 'a');
  EXPECT_TRUE(MappedFile::open(write("empty", ""))->bytes().empty());
}

TEST_F(FileTest, AFileCutAfterItWasMappedIsAnErrorOfRead) {
  const auto file = MappedFile::open(write("f", "abcdef"));
  fs::resize_file(directory_ / "f", 2);
  std::byte four[4];
  EXPECT_THROW(file->read(0, four), CheckpointError);
}

TEST_F(FileTest, AnAtomicWriteReplacesAndLeavesNothingBeside) {
  const fs::path file = write("f", "old");
  write_file_atomic(file, "new");
  EXPECT_EQ(read(file), "new");
  EXPECT_EQ(entries(), 1u);
  EXPECT_THROW(write_file_atomic(directory_ / "no" / "f", "x"), ResourceError);
  EXPECT_THROW(write_file_atomic(directory_, "x"), ResourceError);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, WhatCannotBeWrittenIsKnownBefore) {
  const fs::path file = write("f", "old");
  EXPECT_NO_THROW(check_writable(file));
  EXPECT_NO_THROW(check_writable(directory_ / "new"));
  EXPECT_NO_THROW(check_writable("new"));
  for (const fs::path& path :
       {directory_, directory_ / "no" / "f", file / "f", fs::path("")})
    EXPECT_THROW(check_writable(path), ResourceError) << path;
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, ADirectoryAppearsOnlyAtItsCommit) {
  const fs::path target = directory_ / "out";
  {
    AtomicDirectory output(target, "config.json");
    std::ofstream(output.path() / "config.json") << "1";
    fs::create_directory(output.path() / "optiq");
    EXPECT_FALSE(fs::exists(target));
    output.commit();
  }
  EXPECT_EQ(read(target / "config.json"), "1");
  EXPECT_TRUE(fs::is_directory(target / "optiq"));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, WithoutACommitTheOldDirectoryStays) {
  const fs::path target = directory_ / "out";
  fs::create_directory(target);
  std::ofstream(target / "config.json") << "old";
  { AtomicDirectory output(target, "config.json"); }
  EXPECT_EQ(read(target / "config.json"), "old");
  {
    AtomicDirectory output(target, "config.json");
    std::ofstream(output.path() / "config.json") << "new";
    output.commit();
  }
  EXPECT_EQ(read(target / "config.json"), "new");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, ALinkToADirectoryStaysALink) {
  fs::create_directory(directory_ / "real");
  fs::create_directory_symlink("real", directory_ / "out");
  AtomicDirectory output(directory_ / "out", "config.json");
  std::ofstream(output.path() / "config.json") << "new";
  output.commit();
  EXPECT_TRUE(fs::is_symlink(directory_ / "out"));
  EXPECT_EQ(read(directory_ / "real" / "config.json"), "new");
}

TEST_F(FileTest, ADirectoryWithOtherFilesIsNeverReplaced) {
  write("letter.txt", "dear");
  EXPECT_THROW((AtomicDirectory{directory_, "config.json"}), std::invalid_argument);
  EXPECT_THROW((AtomicDirectory{directory_ / "letter.txt", "config.json"}),
               std::invalid_argument);
  EXPECT_THROW((AtomicDirectory{"/", "config.json"}), std::invalid_argument);
  EXPECT_THROW((AtomicDirectory{directory_ / "letter.txt" / "out", "config.json"}),
               ResourceError);
  EXPECT_EQ(read(directory_ / "letter.txt"), "dear");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, WhatAKilledProcessLeftIsRemovedAndWhatALivingOneHoldsStays) {
  const fs::path target = directory_ / "out";
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicDirectory output(target, "config.json");
    std::ofstream(output.path() / "half") << "1";
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(entries(), 1u);
  AtomicDirectory first(target, "config.json");
  EXPECT_EQ(entries(), 1u);
  EXPECT_TRUE(fs::is_empty(first.path()));
  AtomicDirectory second(target, "config.json");
  EXPECT_TRUE(fs::exists(first.path()));
}

TEST_F(FileTest, ParentsAreMade) {
  AtomicDirectory output(directory_ / "a/b/out", "config.json");
  output.commit();
  EXPECT_TRUE(fs::is_directory(directory_ / "a/b/out"));
}

TEST_F(FileTest, TwoAtOnceDoNotShareATemporaryDirectory) {
  AtomicDirectory first(directory_ / "out", "config.json");
  AtomicDirectory second(directory_ / "out", "config.json");
  EXPECT_NE(first.path(), second.path());
  std::ofstream(first.path() / "config.json") << "1";
  std::ofstream(second.path() / "config.json") << "2";
  first.commit();
  second.commit();
  EXPECT_EQ(read(directory_ / "out" / "config.json"), "2");
}

}  // namespace
}  // namespace optiq
